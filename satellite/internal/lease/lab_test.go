package lease

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// memLog is a Log that can be told to fail.
type memLog struct {
	records map[netip.Addr]Record
	err     error
	appends int
}

func (l *memLog) Append(_ context.Context, rs []Record) error {
	l.appends++
	if l.err != nil {
		return l.err
	}
	for _, r := range rs {
		if r.State == Free {
			delete(l.records, r.Addr)
			continue
		}
		l.records[r.Addr] = r
	}
	return nil
}

func (l *memLog) Load(f func(Record) error) error {
	for _, r := range l.records {
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}

func newLog() *memLog { return &memLog{records: make(map[netip.Addr]Record)} }

// lab is a table with a clock that stands still until it is told otherwise.
type lab struct {
	*Table
	t   *testing.T
	now time.Time
	log *memLog
}

var room = Subnet{
	Name:      "room",
	Prefix:    netip.MustParsePrefix("10.0.0.0/24"),
	First:     netip.MustParseAddr("10.0.0.20"),
	Last:      netip.MustParseAddr("10.0.0.22"),
	LeaseTime: time.Hour,
}

func newLab(t *testing.T, s Subnet, rs ...Reservation) *lab {
	t.Helper()
	l := &lab{t: t, now: time.Date(2026, 9, 1, 8, 0, 0, 0, time.UTC), log: newLog()}
	l.Table = New(Config{Now: func() time.Time { return l.now }})
	if err := l.SetSubnets([]Subnet{s}, rs); err != nil {
		t.Fatal(err)
	}
	return l
}

func pc(n int) Client { return Client{MAC: MAC{0x52, 0x54, 0, 0, byte(n >> 8), byte(n)}} }

func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	if !strings.Contains(s, ".") {
		s = "10.0.0." + s
	}
	return netip.MustParseAddr(s)
}

func (l *lab) log1(g Grant, err error) (Grant, error) {
	if err == nil && len(g.Records) > 0 {
		if err := l.log.Append(l.t.Context(), g.Records); err != nil {
			l.t.Fatal(err)
		}
	}
	return g, err
}

func (l *lab) offer(n int, want string) string {
	g, err := l.Offer(pc(n), "room", addr(want))
	return said(g, err)
}

func (l *lab) sel(n int, a string) string { return said(l.log1(l.Select(pc(n), "room", addr(a)))) }
func (l *lab) renew(n int, a string) string {
	return said(l.log1(l.Renew(pc(n), "room", addr(a))))
}
func (l *lab) reboot(n int, a string) string {
	return said(l.log1(l.Reboot(pc(n), "room", addr(a))))
}

// dora takes a client from nothing to a lease.
func (l *lab) dora(n int) string {
	l.t.Helper()
	a := l.offer(n, "")
	if got := l.sel(n, a); got != a {
		l.t.Fatalf("client %d was offered %s and got %s", n, a, got)
	}
	return a
}

func said(g Grant, err error) string {
	switch {
	case errors.Is(err, ErrRangeFull):
		return "full"
	case errors.Is(err, ErrRefused):
		return "refused"
	case errors.Is(err, ErrNotOurs):
		return "silent"
	case err != nil:
		return err.Error()
	}
	return g.Addr.String()
}

func want(t *testing.T, got, want string) {
	t.Helper()
	if want != "full" && want != "refused" && want != "silent" {
		want = addr(want).String()
	}
	if got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}
