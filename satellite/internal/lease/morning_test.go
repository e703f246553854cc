package lease

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// TestNoAddressTwice plays a long random morning and checks after each step what must always hold.
func TestNoAddressTwice(t *testing.T) {
	s := room
	s.Last = addr("35")
	l := newLab(t, s, Reservation{MAC: pc(3).MAC, Addr: addr("30")})
	l.cfg.MaxOffers = 5
	rnd := rand.New(rand.NewPCG(1, 2))
	for step := range 50_000 {
		n := rnd.IntN(24)
		a := address(number(s.First) - 2 + rnd.Uint32N(20)).String()
		switch rnd.IntN(9) {
		case 0, 1:
			l.offer(n, "")
		case 2:
			l.offer(n, a)
		case 3:
			l.sel(n, a)
		case 4:
			l.renew(n, a)
		case 5:
			l.reboot(n, a)
		case 6:
			l.Release(pc(n), addr(a))
		case 7:
			if rnd.IntN(4) == 0 {
				l.Decline(pc(n), addr(a))
			}
		case 8:
			l.now = l.now.Add(time.Duration(rnd.IntN(600)) * time.Second)
			if rnd.IntN(50) == 0 {
				if err := l.SetSubnets([]Subnet{s}, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := l.check(); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
	}
}

// check verifies the table's invariants.
func (l *lab) check() error {
	bound := make(map[key]netip.Addr)
	for a, b := range l.byAddr {
		if b.addr != a {
			return fmt.Errorf("%s is filed under %s", b.addr, a)
		}
		if b.state == Bound && b.expires.After(l.now) {
			if o, ok := bound[b.key]; ok {
				return fmt.Errorf("one client has %s and %s", o, a)
			}
			bound[b.key] = a
		}
		if b.pool != nil && (b.pool.ends[b.index] != b || !b.pool.isTaken(a)) {
			return fmt.Errorf("%s is not where its pool thinks", a)
		}
		if (b.offer != nil) != !b.hold.IsZero() {
			return fmt.Errorf("%s: hold %s and offer %v disagree", a, b.hold, b.offer)
		}
	}
	for k, bs := range l.byClient {
		for _, b := range bs {
			if b.key != k || l.byAddr[b.addr] != b {
				return fmt.Errorf("stale binding %s of a client", b.addr)
			}
		}
	}
	for _, p := range l.pools {
		declined := 0
		for i, b := range p.ends {
			if i > 0 && b.freeAt().Before(p.ends[(i-1)/2].freeAt()) {
				return fmt.Errorf("heap order broken at %s", b.addr)
			}
			if b.state == Declined {
				declined++
			}
		}
		if declined != p.declined {
			return fmt.Errorf("%d declined, counted %d", declined, p.declined)
		}
	}
	if l.offers.Len() > l.cfg.MaxOffers {
		return fmt.Errorf("%d offers", l.offers.Len())
	}
	return nil
}
