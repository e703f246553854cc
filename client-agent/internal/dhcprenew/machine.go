// Package dhcprenew keeps the lease of an address that firmware or a boot loader obtained: it renews and rebinds by RFC 2131 section 4.4.5, but never
// gives the address up, because the root file system hangs on it. Machine decides, Run moves packets.
package dhcprenew

import (
	"net/netip"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/dhcp4"
)

// Times that are not in the lease.
const (
	// minRetry is the shortest wait between two tries on a known lease (RFC 2131 section 4.4.5).
	minRetry = time.Minute
	// firstRetry is the wait behind the first try while the lease is not known; it doubles up to minRetry (section 4.1).
	firstRetry = 4 * time.Second
	// lostRetry is the wait once the lease is lost: somebody may repair the server.
	lostRetry = 5 * time.Minute
	// replyTimeout is how long one request waits for its answer.
	replyTimeout = 4 * time.Second
	// unicastTries is how often an unknown lease is asked for at the known server before everyone is asked.
	unicastTries = 2
)

// Mode says how a request goes out.
type Mode int

// Modes of RFC 2131 section 4.3.2; both carry the address in ciaddr and name neither server nor requested address.
const (
	Renew  Mode = iota // unicast to the server of the lease
	Rebind             // broadcast
)

// Lease is what a server last said.
type Lease struct {
	Server netip.Addr
	// Expires is the zero time for a lease that never ends.
	Expires time.Time
	t1, t2  time.Time
}

// Machine decides when and how to ask. It is not safe for concurrent use. Times are handed in, so that it has no clock.
type Machine struct {
	addr   netip.Addr
	server netip.Addr // not valid while unknown
	spread func(time.Duration) time.Duration

	lease *Lease
	tries int // since the last acknowledgement
	next  time.Time
	nak   bool
}

// NewMachine returns a Machine for an address that is in use. The server may be not valid: then everyone is asked. Spread varies a wait a little
// so that a classroom does not ask in one voice; nil leaves waits as they are.
func NewMachine(addr, server netip.Addr, spread func(time.Duration) time.Duration) *Machine {
	if spread == nil {
		spread = func(d time.Duration) time.Duration { return d }
	}
	return &Machine{addr: addr, server: server, spread: spread}
}

// Next returns when to send the next request; the zero time means at once, ok false never.
func (m *Machine) Next() (at time.Time, ok bool) {
	if m.lease != nil && m.lease.Expires.IsZero() && !m.nak {
		return time.Time{}, false
	}
	return m.next, true
}

// Ask tells how to send the request that is due, and counts it.
func (m *Machine) Ask(now time.Time) (Mode, netip.Addr) {
	mode := m.mode(now)
	m.tries++
	m.next = now.Add(m.spread(m.wait(now)))
	return mode, m.server
}

func (m *Machine) mode(now time.Time) Mode {
	switch {
	case !m.server.IsValid() || m.nak:
		return Rebind
	case m.lease == nil:
		if m.tries < unicastTries {
			return Renew
		}
		return Rebind
	case now.Before(m.lease.t2):
		return Renew
	}
	return Rebind
}

// wait is the time until the next try if this one stays without an answer: half of what remains of the phase (section 4.4.5).
func (m *Machine) wait(now time.Time) time.Duration {
	switch {
	case m.nak:
		return lostRetry
	case m.lease == nil:
		return min(firstRetry<<min(m.tries-1, 8), minRetry)
	case now.Before(m.lease.t2):
		return max(m.lease.t2.Sub(now)/2, minRetry)
	case now.Before(m.lease.Expires):
		return max(m.lease.Expires.Sub(now)/2, minRetry)
	}
	return lostRetry
}

// Reply takes in an answer to the last request. It returns false if the answer is of no use and the wait goes on.
func (m *Machine) Reply(now time.Time, p dhcp4.Packet) bool {
	switch p.Type() {
	case dhcp4.Nak:
		m.nak = true
		m.next = now.Add(m.spread(lostRetry))
		return true
	case dhcp4.Ack:
		if p.YourIP != m.addr {
			return false
		}
		return m.acknowledged(now, p)
	}
	return false
}

func (m *Machine) acknowledged(now time.Time, p dhcp4.Packet) bool {
	term, ok := p.Duration(dhcp4.OptLeaseTime)
	if !ok || term <= 0 {
		return false // RFC 2131 table 3: an acknowledgement of a lease must name its time
	}
	if s := p.Addr(dhcp4.OptServerID); s.IsValid() {
		m.server = s
	}
	m.nak, m.tries = false, 0
	m.lease = &Lease{Server: m.server}
	if term == dhcp4.Infinite {
		return true
	}
	t1, t2 := phases(p, term)
	m.lease.t1, m.lease.t2, m.lease.Expires = now.Add(m.spread(t1)), now.Add(t2), now.Add(term)
	m.next = m.lease.t1
	return true
}

// phases returns T1 and T2: the server's if they make sense, else a half and seven eighths (section 4.4.5).
func phases(p dhcp4.Packet, term time.Duration) (t1, t2 time.Duration) {
	t1, ok1 := p.Duration(dhcp4.OptT1)
	t2, ok2 := p.Duration(dhcp4.OptT2)
	if !ok2 || t2 <= 0 || t2 >= term {
		t2 = term * 7 / 8
	}
	if !ok1 || t1 <= 0 || t1 >= t2 {
		t1 = min(term/2, t2)
	}
	return t1, t2
}

// Lease returns the last acknowledged lease, nil while there is none.
func (m *Machine) Lease() *Lease {
	if m.lease == nil {
		return nil
	}
	l := *m.lease
	return &l
}

// Problem tells in words that the address is no longer ours to use; it is empty while all is well. A lease that no server has ever confirmed
// is no problem: the address may have been set by hand.
func (m *Machine) Problem(now time.Time) string {
	switch {
	case m.nak:
		return "the DHCP server refuses to renew " + m.addr.String() + ": another PC may be given this address"
	case m.lease != nil && !m.lease.Expires.IsZero() && !now.Before(m.lease.Expires):
		return "the DHCP lease of " + m.addr.String() + " has expired and no server answers"
	}
	return ""
}
