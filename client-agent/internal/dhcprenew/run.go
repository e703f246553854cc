package dhcprenew

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/dhcp4"
)

// Conn carries packets; dhcp4.Socket is one.
type Conn interface {
	Send(packet []byte, to netip.Addr) error
	Receive(deadline time.Time) ([]byte, error)
	Close() error
}

// Config is what Run works with. All fields but Log are required.
type Config struct {
	MAC  net.HardwareAddr
	Addr netip.Addr
	// Server is the DHCP server if it is known; else it is not valid.
	Server netip.Addr
	// Open opens a socket on the NIC. It is opened for one request at a time, so that another program may use the port between them.
	Open func(ctx context.Context) (Conn, error)
	// Changed is called when Lease or Problem may have changed. It must not block.
	Changed func(Status)
	Log     *slog.Logger
}

// Status is what there is to report.
type Status struct {
	Lease   *Lease
	Problem string
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// Run keeps the lease until ctx ends.
func Run(ctx context.Context, cfg Config) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := NewMachine(cfg.Addr, cfg.Server, spread)
	for {
		at, ok := m.Next()
		if !ok {
			<-ctx.Done()
			return
		}
		if !wait(ctx, cfg, m, at) {
			return
		}
		if err := ask(ctx, cfg, m); err != nil {
			cfg.Log.Warn("lease not renewed", "addr", cfg.Addr, "err", err)
		}
		cfg.Changed(Status{Lease: m.Lease(), Problem: m.Problem(time.Now())})
	}
}

// wait returns at the given time, false if ctx ended. A lease that expires meanwhile is told.
func wait(ctx context.Context, cfg Config, m *Machine, at time.Time) bool {
	for {
		now := time.Now()
		if !now.Before(at) {
			return ctx.Err() == nil
		}
		until := at
		if l := m.Lease(); l != nil && l.Expires.After(now) && l.Expires.Before(until) {
			until = l.Expires
		}
		timer := time.NewTimer(until.Sub(now))
		select {
		case <-timer.C:
			cfg.Changed(Status{Lease: m.Lease(), Problem: m.Problem(time.Now())})
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// spread varies a wait by up to a tenth downwards.
func spread(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)/10+1))
}

// ask sends one request and takes in its answer. No answer is no error: the machine knows when to ask again.
func ask(ctx context.Context, cfg Config, m *Machine) error {
	mode, server := m.Ask(time.Now())
	conn, err := cfg.Open(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	p := dhcp4.NewRequest(dhcp4.Request, rand.Uint32(), cfg.MAC)
	p.ClientIP = cfg.Addr
	to := server
	if mode == Rebind {
		to = broadcast
	}
	if err := conn.Send(p.Encode(), to); err != nil {
		return err
	}
	deadline := time.Now().Add(replyTimeout)
	for {
		data, err := conn.Receive(deadline)
		if errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		reply, err := dhcp4.Parse(data)
		if err == nil && reply.Answers(p.XID, cfg.MAC) && m.Reply(time.Now(), reply) {
			return nil
		}
	}
}
