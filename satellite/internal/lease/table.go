package lease

import (
	"cmp"
	"container/heap"
	"container/list"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Defaults of Config.
const (
	DefaultOfferHold   = 30 * time.Second
	DefaultMaxOffers   = 4096
	DefaultDeclineHold = time.Hour
	DefaultRetention   = 90 * 24 * time.Hour
)

// Config holds a Table's collaborators and bounds; zero values are the defaults above.
type Config struct {
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// OfferHold is how long an offered address is kept for the client; OVMF takes 8 s from the offer to its request.
	OfferHold time.Duration
	// MaxOffers bounds the addresses held at once; beyond it the oldest hold ends early.
	MaxOffers int
	// DeclineHold is how long a declined address is quarantined. At most a quarter of a range is.
	DeclineHold time.Duration
	// Retention is how long the last client of an address is remembered after the lease has ended.
	Retention time.Duration
}

// A Table holds the leases of all subnets. All methods are safe for concurrent use and none blocks on anything but the table's lock.
type Table struct {
	cfg Config

	mu       sync.Mutex
	pools    map[string]*pool
	reserved map[netip.Addr]Reservation
	byMAC    map[MAC][]Reservation
	byAddr   map[netip.Addr]*binding
	byClient map[key][]*binding
	offers   *list.List // of *binding, the oldest hold first
}

// New makes an empty table without subnets.
func New(cfg Config) *Table {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.OfferHold = cmp.Or(cfg.OfferHold, DefaultOfferHold)
	cfg.MaxOffers = cmp.Or(cfg.MaxOffers, DefaultMaxOffers)
	cfg.DeclineHold = cmp.Or(cfg.DeclineHold, DefaultDeclineHold)
	cfg.Retention = cmp.Or(cfg.Retention, DefaultRetention)
	return &Table{
		cfg:      cfg,
		byAddr:   make(map[netip.Addr]*binding),
		byClient: make(map[key][]*binding),
		offers:   list.New(),
	}
}

// SetSubnets replaces subnets and reservations. Leases are kept, also those that no subnet covers any more. After an error
// nothing has changed.
func (t *Table) SetSubnets(subnets []Subnet, reservations []Reservation) error {
	pools := make(map[string]*pool, len(subnets))
	for i, s := range subnets {
		p, err := newPool(s)
		if err != nil {
			return err
		}
		if pools[s.Name] != nil {
			return fmt.Errorf("subnet %q is there twice", s.Name)
		}
		for _, o := range subnets[:i] {
			if o.Prefix.Overlaps(s.Prefix) {
				return fmt.Errorf("subnets %q and %q overlap", o.Name, s.Name)
			}
		}
		pools[s.Name] = p
	}
	reserved := make(map[netip.Addr]Reservation, len(reservations))
	byMAC := make(map[MAC][]Reservation)
	for _, r := range reservations {
		if r.MAC.IsZero() || !r.Addr.Is4() {
			return fmt.Errorf("reservation of %s for %s: not an IPv4 and an Ethernet address", r.Addr, r.MAC)
		}
		if o, ok := reserved[r.Addr]; ok {
			return fmt.Errorf("address %s is reserved for both %s and %s", r.Addr, o.MAC, r.MAC)
		}
		reserved[r.Addr] = r
		byMAC[r.MAC] = append(byMAC[r.MAC], r)
		for _, p := range pools {
			p.take(r.Addr)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pools, t.reserved, t.byMAC = pools, reserved, byMAC
	for _, b := range t.byAddr {
		b.pool = nil
		t.adoptLocked(b)
	}
	return nil
}

// adoptLocked gives b to the pool whose range covers it, if the address may be given to others at all.
func (t *Table) adoptLocked(b *binding) {
	if _, ok := t.reserved[b.addr]; ok {
		return
	}
	for _, p := range t.pools {
		if p.inRange(b.addr) && !p.isTaken(b.addr) {
			p.add(b)
			return
		}
	}
}

// Load reads the log into an empty table and drops what is older than Retention from both.
func (t *Table) Load(ctx context.Context, log Log) error {
	var old []Record
	now := t.cfg.Now()
	err := log.Load(func(r Record) error {
		if !r.Addr.Is4() {
			return fmt.Errorf("lease record for %q: no IPv4 address", r.Addr)
		}
		if r.Expires.Add(t.cfg.Retention).Before(now) {
			old = append(old, Record{Addr: r.Addr, State: Free})
			return nil
		}
		t.apply(r)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read leases: %w", err)
	}
	if len(old) == 0 {
		return nil
	}
	if err := log.Append(ctx, old); err != nil {
		return fmt.Errorf("drop %d forgotten leases: %w", len(old), err)
	}
	return nil
}

// apply puts one record into the table.
func (t *Table) apply(r Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.byAddr[r.Addr]; b != nil {
		t.forgetLocked(b)
	}
	c := Client{MAC: r.MAC, ID: string(r.ClientID), Hostname: r.Hostname}
	k := c.key()
	switch r.State {
	case Bound, Released:
		if k == "" {
			return
		}
	case Declined:
		k = ""
	default:
		return
	}
	t.insertLocked(&binding{addr: r.Addr, client: c, key: k, state: r.State, since: r.Since, expires: r.Expires, leased: true})
}

func (t *Table) insertLocked(b *binding) {
	t.byAddr[b.addr] = b
	if b.key != "" {
		t.byClient[b.key] = append(t.byClient[b.key], b)
	}
	t.adoptLocked(b)
}

// forgetLocked takes b out of the table altogether.
func (t *Table) forgetLocked(b *binding) {
	t.endHoldLocked(b)
	t.disownLocked(b)
	if b.pool != nil {
		b.pool.remove(b)
	}
	if t.byAddr[b.addr] == b {
		delete(t.byAddr, b.addr)
	}
}

// disownLocked parts b from its client.
func (t *Table) disownLocked(b *binding) {
	rest := slices.DeleteFunc(t.byClient[b.key], func(o *binding) bool { return o == b })
	if len(rest) == 0 {
		delete(t.byClient, b.key)
	} else {
		t.byClient[b.key] = rest
	}
}

// movedLocked restores the order of the pool after freeAt has changed.
func (t *Table) movedLocked(b *binding) {
	if b.pool != nil {
		heap.Fix(&b.pool.ends, b.index)
	}
}

// holdLocked keeps b for its client until it asks for it.
func (t *Table) holdLocked(b *binding, now time.Time) {
	t.endHoldLocked(b)
	b.hold = now.Add(t.cfg.OfferHold)
	b.offer = t.offers.PushBack(b)
	t.movedLocked(b)
	if t.offers.Len() > t.cfg.MaxOffers {
		t.dropOfferLocked(t.offers.Front().Value.(*binding))
	}
}

func (t *Table) endHoldLocked(b *binding) {
	if b.offer != nil {
		t.offers.Remove(b.offer)
		b.offer, b.hold = nil, time.Time{}
		t.movedLocked(b)
	}
}

// dropOfferLocked ends a hold and forgets an address that was only offered.
func (t *Table) dropOfferLocked(b *binding) {
	t.endHoldLocked(b)
	if b.state == Offered {
		t.forgetLocked(b)
	}
}

// expireOffersLocked ends the holds whose time is over; all holds last equally long, so the oldest are in front.
func (t *Table) expireOffersLocked(now time.Time) {
	for e := t.offers.Front(); e != nil; e = t.offers.Front() {
		b := e.Value.(*binding)
		if b.hold.After(now) {
			return
		}
		t.dropOfferLocked(b)
	}
}

// List gives all addresses that are or were in use, by address. It is a copy.
func (t *Table) List() []Lease {
	now := t.cfg.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireOffersLocked(now)
	leases := make([]Lease, 0, len(t.byAddr))
	for _, b := range t.byAddr {
		leases = append(leases, t.leaseLocked(b, now))
	}
	slices.SortFunc(leases, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return leases
}

func (t *Table) leaseLocked(b *binding, now time.Time) Lease {
	l := Lease{Addr: b.addr, Client: b.client, State: b.state, Since: b.since, Expires: b.expires}
	if b.state == Offered {
		l.Expires = b.hold
	}
	if b.state == Bound && !b.expires.After(now) {
		l.State = Expired
	}
	_, l.Reserved = t.reserved[b.addr]
	if b.pool != nil {
		l.Subnet = b.pool.Name
		return l
	}
	for name, p := range t.pools {
		if p.Prefix.Contains(b.addr) {
			l.Subnet = name
		}
	}
	return l
}

// Count is how many addresses of a subnet are in a state.
type Count struct {
	Bound, Offered, Declined int
	// Size is the number of addresses in the range that can be leased dynamically or are reserved.
	Size int
}

// Counts gives the figures of each subnet by name. It reads the whole table.
func (t *Table) Counts() map[string]Count {
	counts := make(map[string]Count)
	t.mu.Lock()
	for name, p := range t.pools {
		counts[name] = Count{Size: int(p.size)}
	}
	t.mu.Unlock()
	now := t.cfg.Now()
	for _, l := range t.List() {
		c, ok := counts[l.Subnet]
		if !ok {
			continue
		}
		switch {
		case l.State == Bound:
			c.Bound++
		case l.State == Offered:
			c.Offered++
		case l.State == Declined && l.Expires.After(now):
			c.Declined++
		}
		counts[l.Subnet] = c
	}
	return counts
}
