//go:build component

package upstream_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream/fakecontroller"
)

// hole is a connection through which nothing comes any more once it is dug: a WAN that died without a word.
type hole struct {
	net.Conn
	dug *atomic.Bool
}

func (h hole) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	for h.dug.Load() && err == nil {
		n, err = h.Conn.Read(p) // what arrives is lost
	}
	return n, err
}

func TestSilentWANIsNoticed(t *testing.T) {
	c := fakecontroller.Start(t)
	var dug atomic.Bool
	s := start(t, join(t, c), func(cfg *upstream.Config) {
		cfg.ReportInterval = time.Hour // reports must not be what finds out
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", addr)
			return hole{conn, &dug}, err
		}
	})
	if !wait(t, "connection", s.online) {
		t.Fatal("offline")
	}
	dug.Store(true)
	if wait(t, "loss", s.online) {
		t.Fatal("online through a dead WAN")
	}
	dug.Store(false)
	if !wait(t, "connection after the WAN's return", s.online) {
		t.Fatal("offline")
	}
}
