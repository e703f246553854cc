package lease

import (
	"net/netip"
	"slices"
	"time"
)

// Offer answers DHCPDISCOVER (RFC 2131 section 4.3.1): it picks an address and holds it for a while. want is the address that the
// client asks for, the zero value if none. Errors: ErrRangeFull, ErrUnknownSubnet, ErrRefused for a client without identity.
func (t *Table) Offer(c Client, subnet string, want netip.Addr) (Grant, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Now()
	p, k, err := t.lookLocked(c, subnet)
	if err != nil {
		return Grant{}, err
	}
	t.expireOffersLocked(now)
	b, probe := t.chooseLocked(p, c, k, want, now)
	if b == nil {
		return Grant{}, ErrRangeFull
	}
	t.holdLocked(b, now)
	return Grant{Addr: b.addr, Duration: p.LeaseTime, Hostname: t.reserved[b.addr].Hostname, Probe: probe}, nil
}

// Select answers a DHCPREQUEST that names this server (state SELECTING). An address that was offered before a restart, or so long
// ago that the hold has ended, is granted if it is still free. Errors: ErrRefused, ErrUnknownSubnet.
func (t *Table) Select(c Client, subnet string, addr netip.Addr) (Grant, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Now()
	p, k, err := t.lookLocked(c, subnet)
	if err != nil {
		return Grant{}, err
	}
	if b := t.ownLocked(k, addr); b != nil && p.Prefix.Contains(addr) {
		return t.grantLocked(p, b, c, now), nil
	}
	if b := t.takeLocked(p, c, k, addr, now); b != nil {
		return t.grantLocked(p, b, c, now), nil
	}
	return Grant{}, ErrRefused
}

// Reboot answers a DHCPREQUEST without server identifier and ciaddr: a client that remembers an address (state INIT-REBOOT).
// Errors: ErrRefused, ErrNotOurs (RFC 2131 section 4.3.2: silence when there is no record of the client), ErrUnknownSubnet.
func (t *Table) Reboot(c Client, subnet string, addr netip.Addr) (Grant, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Now()
	p, k, err := t.lookLocked(c, subnet)
	if err != nil {
		return Grant{}, err
	}
	if !p.Prefix.Contains(addr) {
		return Grant{}, ErrRefused
	}
	b := t.ownLocked(k, addr)
	if r, ok := t.reservationLocked(p, c.MAC); ok {
		if r.Addr != addr {
			return Grant{}, ErrRefused
		}
		if b == nil {
			b = t.takeLocked(p, c, k, addr, now)
		}
	}
	switch {
	case b == nil && t.currentLocked(p, k) == nil:
		return Grant{}, ErrNotOurs
	case b == nil || b.pool != p && !t.reservedForLocked(addr, c.MAC):
		return Grant{}, ErrRefused
	}
	return t.grantLocked(p, b, c, now), nil
}

// Renew answers a DHCPREQUEST with ciaddr (states RENEWING and REBINDING). A client that runs on an address of this range
// which nobody else has keeps it, also when there is no record of it: the satellite may be a replacement for the one that gave it.
// Errors: ErrRefused, ErrNotOurs, ErrUnknownSubnet.
func (t *Table) Renew(c Client, subnet string, addr netip.Addr) (Grant, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Now()
	p, k, err := t.lookLocked(c, subnet)
	if err != nil {
		return Grant{}, err
	}
	if !p.Prefix.Contains(addr) {
		return Grant{}, ErrRefused
	}
	b := t.ownLocked(k, addr)
	if b == nil {
		b = t.takeLocked(p, c, k, addr, now)
	}
	if b != nil {
		return t.grantLocked(p, b, c, now), nil
	}
	if _, reserved := t.reserved[addr]; !reserved && !p.inRange(addr) && t.byAddr[addr] == nil {
		return Grant{}, ErrNotOurs
	}
	return Grant{}, ErrRefused
}

// Release answers DHCPRELEASE: the address is free for others; its client gets it again if nobody took it. The records may be
// written at leisure. Nothing happens if the client has no lease on addr.
func (t *Table) Release(c Client, addr netip.Addr) []Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.ownLocked(c.key(), addr)
	if b == nil || b.state != Bound {
		return nil
	}
	return []Record{t.releaseLocked(b, t.cfg.Now())}
}

// Forgo takes back what was offered to a client that has chosen another server (RFC 2131 section 4.3.2).
func (t *Table) Forgo(c Client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range slices.Clone(t.byClient[c.key()]) {
		t.dropOfferLocked(b)
	}
}

// Decline answers DHCPDECLINE: the client found somebody else using its address. Nothing happens if the client neither has nor was
// offered addr, so that nobody can take addresses out of service that aren't its own.
func (t *Table) Decline(c Client, addr netip.Addr) []Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.ownLocked(c.key(), addr)
	if b == nil {
		return nil
	}
	return t.quarantineLocked(b, t.cfg.Now())
}

// Conflict says that a probe found addr in use although it is only offered; it is quarantined like a declined one.
func (t *Table) Conflict(addr netip.Addr) []Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, now := t.byAddr[addr], t.cfg.Now()
	if b == nil || b.hold.IsZero() || b.state == Bound && b.expires.After(now) {
		return nil
	}
	return t.quarantineLocked(b, now)
}

func (t *Table) lookLocked(c Client, subnet string) (*pool, key, error) {
	p := t.pools[subnet]
	if p == nil {
		return nil, "", ErrUnknownSubnet
	}
	k := c.key()
	if k == "" {
		return nil, "", ErrRefused
	}
	return p, k, nil
}

// ownLocked gives the binding of addr if it is the client's.
func (t *Table) ownLocked(k key, addr netip.Addr) *binding {
	if b := t.byAddr[addr]; b != nil && k != "" && b.key == k {
		return b
	}
	return nil
}

// currentLocked gives the client's newest binding in the subnet.
func (t *Table) currentLocked(p *pool, k key) *binding {
	var newest *binding
	for _, b := range t.byClient[k] {
		if p.Prefix.Contains(b.addr) && (newest == nil || b.freeAt().After(newest.freeAt())) {
			newest = b
		}
	}
	return newest
}

func (t *Table) reservationLocked(p *pool, m MAC) (Reservation, bool) {
	for _, r := range t.byMAC[m] {
		if p.Prefix.Contains(r.Addr) {
			return r, true
		}
	}
	return Reservation{}, false
}

func (t *Table) reservedForLocked(addr netip.Addr, m MAC) bool {
	r, ok := t.reserved[addr]
	return ok && r.MAC == m
}

// chooseLocked picks an address for an offer, in the order that the package comment gives. probe: see Grant.Probe.
func (t *Table) chooseLocked(p *pool, c Client, k key, want netip.Addr, now time.Time) (b *binding, probe bool) {
	if r, ok := t.reservationLocked(p, c.MAC); ok {
		if b := t.ownLocked(k, r.Addr); b != nil {
			return b, false
		}
		if b := t.takeLocked(p, c, k, r.Addr, now); b != nil {
			return b, false
		}
	}
	if b := t.currentLocked(p, k); b != nil && b.pool == p {
		return b, false
	}
	if p.inRange(want) && !p.isTaken(want) {
		return t.createLocked(want, c, k), false
	}
	if a, ok := p.fresh(k); ok {
		return t.createLocked(a, c, k), false
	}
	old := p.oldest(now)
	if old == nil {
		return nil, false
	}
	t.forgetLocked(old)
	b = t.createLocked(old.addr, c, k)
	b.leased = old.leased
	return b, old.leased
}

// takeLocked makes a binding for a client that names an address which isn't its own, if nobody else has a claim to it.
func (t *Table) takeLocked(p *pool, c Client, k key, addr netip.Addr, now time.Time) *binding {
	if !p.Prefix.Contains(addr) {
		return nil
	}
	r, reserved := t.reserved[addr]
	b := t.byAddr[addr]
	switch {
	case reserved && r.MAC != c.MAC:
		return nil
	case b != nil && (b.active(now) || !reserved && b.pool != p):
		return nil
	case b == nil && !reserved && (!p.inRange(addr) || p.isTaken(addr)):
		return nil
	}
	leased := false
	if b != nil {
		leased = b.leased
		t.forgetLocked(b)
	}
	b = t.createLocked(addr, c, k)
	b.leased = leased
	return b
}

// createLocked makes a binding for an address that has none. The caller holds it or grants it before it unlocks.
func (t *Table) createLocked(a netip.Addr, c Client, k key) *binding {
	b := &binding{addr: a, client: c, key: k, state: Offered}
	t.insertLocked(b)
	return b
}

// grantLocked binds b to its client and ends what else the client has in the subnet.
func (t *Table) grantLocked(p *pool, b *binding, c Client, now time.Time) Grant {
	t.endHoldLocked(b)
	if b.state != Bound || b.since.IsZero() {
		b.since = now
	}
	b.state, b.client, b.leased, b.expires = Bound, c, true, now.Add(p.LeaseTime)
	t.movedLocked(b)
	g := Grant{Addr: b.addr, Duration: p.LeaseTime, Hostname: t.reserved[b.addr].Hostname, Records: []Record{b.record()}}
	if len(t.byClient[b.key]) == 1 {
		return g
	}
	for _, o := range slices.Clone(t.byClient[b.key]) {
		switch {
		case o == b || !p.Prefix.Contains(o.addr):
		case o.state == Bound:
			g.Records = append(g.Records, t.releaseLocked(o, now))
		default:
			t.dropOfferLocked(o)
		}
	}
	return g
}

func (t *Table) releaseLocked(b *binding, now time.Time) Record {
	t.endHoldLocked(b)
	b.state = Released
	if b.expires.After(now) {
		b.expires = now
	}
	t.movedLocked(b)
	return b.record()
}

// quarantineLocked takes the address out of service for a while and frees the longest quarantined one if there are too many.
func (t *Table) quarantineLocked(b *binding, now time.Time) []Record {
	p := b.pool
	t.forgetLocked(b)
	b.client, b.key, b.state, b.leased = Client{}, "", Declined, true
	b.since, b.expires = now, now.Add(t.cfg.DeclineHold)
	t.insertLocked(b)
	records := []Record{b.record()}
	if p == nil || p.declined <= max(1, int(p.size)/4) {
		return records
	}
	oldest := b
	for _, o := range p.ends {
		if o.state == Declined && o.expires.Before(oldest.expires) {
			oldest = o
		}
	}
	t.forgetLocked(oldest)
	return append(records, Record{Addr: oldest.addr, State: Free})
}

func (b *binding) record() Record {
	return Record{
		Addr: b.addr, MAC: b.client.MAC, ClientID: []byte(b.client.ID), Hostname: b.client.Hostname,
		State: b.state, Since: b.since, Expires: b.expires,
	}
}
