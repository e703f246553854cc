package tftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pin "github.com/pin/tftp/v3"
)

// memFile is a File in memory.
type memFile struct {
	*bytes.Reader
	delivered *atomic.Int32
	closed    *atomic.Int32
}

func (f memFile) Close() error { f.closed.Add(1); return nil }
func (f memFile) Delivered()   { f.delivered.Add(1) }

// lab is a server on loopback with some files.
type lab struct {
	*Server
	addr      *net.UDPAddr
	log       *syncBuffer
	opened    chan netip.Addr // local ends
	gate      chan struct{}   // opening "gated" waits for it
	delivered atomic.Int32
	closed    atomic.Int32
	stop      func()
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func content(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(i * 7 / 3)
	}
	return out
}

func newLab(t *testing.T, change func(*Config)) *lab {
	t.Helper()
	l := &lab{log: new(syncBuffer), opened: make(chan netip.Addr, 1000), gate: make(chan struct{})}
	files := map[string][]byte{"small": []byte("hello"), "big": content(300_000), "blocks": content(1024), "gated": []byte("gated"), "empty": nil}
	cfg := Config{
		Open: func(name string, client, local netip.Addr) (File, error) {
			l.opened <- local
			if name == "secret" {
				return nil, errors.New("read /var/lib/ltsp/images/secret: input/output error")
			}
			data, ok := files[name]
			if !ok {
				return nil, fmt.Errorf("name: %w", fs.ErrNotExist)
			}
			if name == "gated" {
				<-l.gate
			}
			return memFile{bytes.NewReader(data), &l.delivered, &l.closed}, nil
		},
		Logger:  slog.New(slog.NewTextHandler(l.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Timeout: 200 * time.Millisecond, Retries: 3, DrainTimeout: time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.Server = s
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l.addr = conn.LocalAddr().(*net.UDPAddr)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, conn) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(l.stop)
	return l
}

func (l *lab) get(t *testing.T, name string, blksize int) ([]byte, int64, error) {
	t.Helper()
	c, err := pin.NewClient(l.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	c.SetTimeout(2 * time.Second)
	c.RequestTSize(true)
	if blksize > 0 {
		c.SetBlockSize(blksize)
	}
	wt, err := c.Receive(name, "octet")
	if err != nil {
		return nil, 0, err
	}
	size, _ := wt.(pin.IncomingTransfer).Size()
	var buf bytes.Buffer
	_, err = wt.WriteTo(&buf)
	return buf.Bytes(), size, err
}
