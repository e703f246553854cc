package lease

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestSameAddressForAllStagesOfOnePC(t *testing.T) {
	l := newLab(t, room)
	first := l.dora(1)
	for _, id := range []string{"\x01RT\x00\x00\x00\x01", "\xffother", ""} {
		c := pc(1)
		c.ID = id
		g, err := l.Offer(c, "room", netip.Addr{})
		want(t, said(g, err), first)
		g, err = l.Select(c, "room", g.Addr)
		want(t, said(g, err), first)
	}
	if n := len(l.List()); n != 1 {
		t.Errorf("%d leases, want 1", n)
	}
}

func TestClientWithoutMACIsItsIdentifier(t *testing.T) {
	l := newLab(t, room)
	a, err := l.Offer(Client{ID: "\x01a"}, "room", netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Offer(Client{ID: "\x01b"}, "room", netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if a.Addr == b.Addr {
		t.Errorf("two identifiers got one address %s", a.Addr)
	}
	if _, err := l.Offer(Client{}, "room", netip.Addr{}); !errors.Is(err, ErrRefused) {
		t.Errorf("client without identity: %v", err)
	}
}

func TestOfferPrefersRequestedThenStable(t *testing.T) {
	l := newLab(t, room)
	want(t, l.offer(1, "21"), "21")
	if got := l.offer(2, "21"); got == "10.0.0.21" || got == "full" {
		t.Errorf("held address given away or range full: %s", got)
	}
	want(t, newLab(t, room).offer(7, ""), newLab(t, room).offer(7, ""))
	outside := newLab(t, room).offer(3, "99")
	if a := addr(outside); a.Less(room.First) || room.Last.Less(a) {
		t.Errorf("offered %s, outside the range", outside)
	}
}

func TestFullRangeReusesOldestExpired(t *testing.T) {
	l := newLab(t, room)
	first := l.dora(1)
	l.now = l.now.Add(time.Minute)
	second := l.dora(2)
	l.now = l.now.Add(time.Minute)
	l.dora(3)
	want(t, l.offer(4, ""), "full")
	l.now = l.now.Add(59 * time.Minute) // the leases of 1 and 2 have ended
	g, err := l.Offer(pc(4), "room", netip.Addr{})
	want(t, said(g, err), first)
	if !g.Probe {
		t.Error("address of somebody else is offered without a probe")
	}
	want(t, l.sel(4, first), first)
	want(t, l.offer(2, ""), second) // still remembered
	want(t, l.offer(1, ""), "full")
	want(t, l.renew(1, first), "refused")
}

func TestUnusedOfferIsFreeAgain(t *testing.T) {
	l := newLab(t, room)
	for n := range 3 {
		l.offer(n, "")
	}
	want(t, l.offer(4, ""), "full")
	l.now = l.now.Add(DefaultOfferHold)
	g, err := l.Offer(pc(4), "room", netip.Addr{})
	if err != nil || g.Probe {
		t.Errorf("after the hold: %v, probe %t", err, g.Probe)
	}
	if n := len(l.List()); n != 1 {
		t.Errorf("%d addresses in use, want 1", n)
	}
}

func TestOffersAreBounded(t *testing.T) {
	s := room
	s.Last = addr("200")
	l := newLab(t, s)
	l.cfg.MaxOffers = 2
	for n := range 5 {
		l.offer(n, "")
	}
	if n := len(l.List()); n != 2 {
		t.Errorf("%d addresses held, want 2", n)
	}
	a := newLab(t, s).offer(0, "")
	want(t, l.sel(0, a), a) // the hold ended early, but the address is still free
}

func TestSelect(t *testing.T) {
	l := newLab(t, room)
	a := l.dora(1)
	for name, tc := range map[string]struct {
		client      int
		addr, want_ string
	}{
		"taken":       {2, a, "refused"},
		"outside":     {2, "99", "refused"},
		"other net":   {2, "192.168.1.5", "refused"},
		"own again":   {1, a, a},
		"not offered": {2, freeIn(l, a), freeIn(l, a)},
	} {
		t.Run(name, func(t *testing.T) { want(t, l.sel(tc.client, tc.addr), tc.want_) })
	}
}

// freeIn gives an address of the range that isn't a.
func freeIn(l *lab, a string) string {
	if a == "10.0.0.20" {
		return "10.0.0.21"
	}
	return "10.0.0.20"
}

func TestReboot(t *testing.T) {
	l := newLab(t, room)
	a := l.dora(1)
	want(t, l.reboot(1, a), a)
	want(t, l.reboot(1, freeIn(l, a)), "refused")
	want(t, l.reboot(1, "192.168.1.5"), "refused")
	want(t, l.reboot(2, a), "silent")
	want(t, l.reboot(2, "22"), "silent")
}

func TestRenew(t *testing.T) {
	l := newLab(t, room)
	a := l.dora(1)
	l.now = l.now.Add(30 * time.Minute)
	want(t, l.renew(1, a), a)
	if exp := l.List()[0].Expires; !exp.Equal(l.now.Add(time.Hour)) {
		t.Errorf("expires %s after renewal at %s", exp, l.now)
	}
	want(t, l.renew(2, a), "refused")
	want(t, l.renew(2, "192.168.1.5"), "refused")
	want(t, l.renew(2, "99"), "silent")
	want(t, l.renew(2, freeIn(l, a)), freeIn(l, a)) // a replaced satellite must not end running clients
	l.now = l.now.Add(2 * time.Hour)
	want(t, l.renew(1, a), a) // late, but nobody else took it
}

func TestReleaseAndForgo(t *testing.T) {
	l := newLab(t, room)
	a := l.dora(1)
	if rs := l.Release(pc(2), addr(a)); rs != nil {
		t.Errorf("a stranger released the lease: %v", rs)
	}
	rs := l.Release(pc(1), addr(a))
	if len(rs) != 1 || rs[0].State != Released {
		t.Fatalf("records of the release: %v", rs)
	}
	if rs := l.Release(pc(1), addr(a)); rs != nil {
		t.Errorf("released twice: %v", rs)
	}
	want(t, l.offer(1, ""), a)
	l.Forgo(pc(1))
	b := l.offer(2, "")
	l.Forgo(pc(2))
	want(t, l.offer(3, b), b)
}

func TestDecline(t *testing.T) {
	s := room
	s.Last = addr("27") // 8 addresses: at most 2 quarantined
	l := newLab(t, s)
	a := l.dora(1)
	if rs := l.Decline(pc(2), addr(a)); rs != nil {
		t.Errorf("a stranger declined the lease: %v", rs)
	}
	if rs := l.Decline(pc(1), addr(a)); len(rs) != 1 || rs[0].State != Declined || !rs[0].MAC.IsZero() {
		t.Errorf("records of the decline: %+v", rs)
	}
	b := l.dora(1)
	if a == b {
		t.Fatal("the declined address was given again")
	}
	want(t, l.renew(2, a), "refused")
	l.now = l.now.Add(time.Second)
	l.Decline(pc(1), addr(b))
	l.now = l.now.Add(time.Second)
	rs := l.Decline(pc(1), addr(l.dora(1)))
	if len(rs) != 2 || rs[1].State != Free || rs[1].Addr != addr(a) {
		t.Errorf("third quarantine: %+v", rs)
	}
	if c := l.Counts()["room"]; c.Declined != 2 {
		t.Errorf("%d quarantined, want 2", c.Declined)
	}
	l.now = l.now.Add(DefaultDeclineHold)
	if c := l.Counts()["room"]; c.Declined != 0 {
		t.Errorf("%d quarantined after the time, want 0", c.Declined)
	}
}

func TestConflict(t *testing.T) {
	l := newLab(t, room)
	a := l.dora(1)
	if rs := l.Conflict(addr(a)); rs != nil {
		t.Errorf("a leased address was quarantined by a probe: %v", rs)
	}
	b := l.offer(2, "")
	if rs := l.Conflict(addr(b)); len(rs) != 1 {
		t.Errorf("records: %v", rs)
	}
	if c := l.offer(2, ""); c == a || c == b {
		t.Errorf("offered %s again", c)
	}
}

func TestReservations(t *testing.T) {
	inside := Reservation{MAC: pc(1).MAC, Addr: addr("21"), Hostname: "pc1"}
	outside := Reservation{MAC: pc(2).MAC, Addr: addr("5")}
	l := newLab(t, room, inside, outside)
	g, err := l.Offer(pc(1), "room", addr("22"))
	want(t, said(g, err), "21")
	if g.Hostname != "pc1" {
		t.Errorf("hostname %q", g.Hostname)
	}
	want(t, l.dora(2), "5")
	want(t, l.reboot(1, "20"), "refused")
	want(t, l.reboot(1, "21"), "21")
	want(t, l.offer(3, "21"), "20")
	l.sel(3, "20")
	l.dora(4)
	want(t, l.offer(5, ""), "full")
	want(t, l.renew(5, "5"), "refused")
	want(t, l.sel(5, "21"), "refused")
}

func TestReservationOfAnAddressInUse(t *testing.T) {
	l := newLab(t, room)
	a := l.dora(1)
	if err := l.SetSubnets([]Subnet{room}, []Reservation{{MAC: pc(2).MAC, Addr: addr(a)}}); err != nil {
		t.Fatal(err)
	}
	want(t, l.renew(1, a), a) // a running client keeps its address
	b := l.dora(2)
	if a == b {
		t.Fatal("address given twice")
	}
	c := l.dora(1) // at its next boot it moves
	if c == a || c == b {
		t.Fatalf("got %s", c)
	}
	want(t, l.dora(2), a)
	for _, le := range l.List() {
		if le.Addr == addr(b) && le.State != Released {
			t.Errorf("old address of client 2 is %s", le.State)
		}
	}
}

func TestSetSubnetsKeepsLeases(t *testing.T) {
	l := newLab(t, room)
	a := l.dora(1)
	moved := room
	moved.First, moved.Last = addr("100"), addr("110")
	if err := l.SetSubnets([]Subnet{moved}, nil); err != nil {
		t.Fatal(err)
	}
	want(t, l.renew(1, a), a)
	want(t, l.reboot(1, a), "refused")
	if b := addr(l.dora(1)); b.Less(moved.First) {
		t.Errorf("new boot got %s of the old range", b)
	}
	if _, err := l.Offer(pc(1), "gone", netip.Addr{}); !errors.Is(err, ErrUnknownSubnet) {
		t.Errorf("unknown subnet: %v", err)
	}
}

func TestSetSubnetsRefuses(t *testing.T) {
	bad := func(f func(*Subnet)) []Subnet { s := room; f(&s); return []Subnet{s} }
	other := room
	other.Name = "other"
	for name, tc := range map[string]struct {
		s []Subnet
		r []Reservation
	}{
		"no prefix":       {s: bad(func(s *Subnet) { s.Prefix = netip.Prefix{} })},
		"IPv6":            {s: bad(func(s *Subnet) { s.Prefix = netip.MustParsePrefix("fd00::/64") })},
		"range outside":   {s: bad(func(s *Subnet) { s.Last = addr("10.0.1.1") })},
		"range backwards": {s: bad(func(s *Subnet) { s.Last = addr("10") })},
		"half a range":    {s: bad(func(s *Subnet) { s.Last = netip.Addr{} })},
		"too big": {s: bad(func(s *Subnet) {
			s.Prefix, s.First, s.Last = netip.MustParsePrefix("10.0.0.0/8"), addr("10.0.0.1"), addr("10.255.0.1")
		})},
		"no lease time":     {s: bad(func(s *Subnet) { s.LeaseTime = 0 })},
		"overlap":           {s: []Subnet{room, other}},
		"twice":             {s: []Subnet{room, room}},
		"reserved twice":    {s: []Subnet{room}, r: []Reservation{{MAC: pc(1).MAC, Addr: addr("5")}, {MAC: pc(2).MAC, Addr: addr("5")}}},
		"reservation empty": {s: []Subnet{room}, r: []Reservation{{Addr: addr("5")}}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, room)
			if err := l.SetSubnets(tc.s, tc.r); err == nil {
				t.Error("accepted")
			}
			l.dora(1)
		})
	}
}

func TestExcludedAndEndsAreNeverLeased(t *testing.T) {
	s := room
	s.Prefix = netip.MustParsePrefix("10.0.0.0/29")
	s.First, s.Last = addr("0"), addr("7")
	s.Exclude = []netip.Addr{addr("1"), addr("2")}
	l := newLab(t, s)
	for n := range 4 {
		switch a := l.dora(n); a {
		case "10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.7":
			t.Errorf("leased %s", a)
		}
	}
	want(t, l.offer(9, ""), "full")
	want(t, l.sel(9, "1"), "refused")
	want(t, l.renew(9, "7"), "refused")
}

func TestLoadRestoresTheTable(t *testing.T) {
	l := newLab(t, room)
	c := pc(1)
	c.ID, c.Hostname = "\x01id", "host"
	g, _ := l.Offer(c, "room", netip.Addr{})
	if _, err := l.log1(l.Select(c, "room", g.Addr)); err != nil {
		t.Fatal(err)
	}
	b := l.dora(2)
	l.log.Append(t.Context(), l.Decline(pc(2), addr(b)))
	l.log.Append(t.Context(), []Record{{Addr: addr("200"), MAC: pc(9).MAC, State: Bound, Expires: l.now.Add(-DefaultRetention - 1)}})

	again := newLab(t, room)
	if err := again.Load(t.Context(), l.log); err != nil {
		t.Fatal(err)
	}
	if err := again.SetSubnets([]Subnet{room}, nil); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(l.List(), again.List(), cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("table differs after a restart (-before +after):\n%s", d)
	}
	want(t, again.reboot(1, g.Addr.String()), g.Addr.String())
	want(t, again.renew(3, b), "refused")
	if _, ok := l.log.records[addr("200")]; ok {
		t.Error("forgotten lease is still in the log")
	}
}

func TestLoadSaysWhatIsWrong(t *testing.T) {
	log := newLog()
	log.records[netip.Addr{}] = Record{}
	if err := New(Config{}).Load(t.Context(), log); err == nil {
		t.Error("accepted a record without address")
	}
	log = newLog()
	log.records[addr("20")] = Record{Addr: addr("20"), State: Bound, MAC: pc(1).MAC}
	log.err = errors.New("disk full")
	if err := New(Config{}).Load(t.Context(), log); !errors.Is(err, log.err) {
		t.Errorf("got %v", err)
	}
}
