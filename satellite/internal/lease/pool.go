package lease

import (
	"container/heap"
	"container/list"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/bits"
	"net/netip"
	"time"
)

// MaxRange bounds the addresses of one range: a /12 and no more.
const MaxRange = 1 << 20

// A binding is what the table knows about one address. The durable part is state, since and expires; hold lives only here.
type binding struct {
	addr   netip.Addr
	client Client
	key    key // "" while declined
	state  State
	since  time.Time
	// expires: see Lease.Expires; zero while the state is Offered.
	expires time.Time
	// hold is the end of an outstanding offer; zero if there is none.
	hold time.Time
	// leased says that the address was bound to somebody at some time.
	leased bool

	pool  *pool         // nil if the address can't be given to others (outside every range, or reserved)
	index int           // in pool.ends
	offer *list.Element // in Table.offers while hold is set
}

// freeAt is when the address may be given to another client.
func (b *binding) freeAt() time.Time {
	if b.hold.After(b.expires) {
		return b.hold
	}
	return b.expires
}

// active reports whether its client may use the address or is about to.
func (b *binding) active(now time.Time) bool { return b.freeAt().After(now) }

// A pool is the dynamic range of one subnet.
type pool struct {
	Subnet
	first uint32
	size  uint32
	// taken has a bit for each address that is excluded, reserved or has a binding.
	taken []uint64
	// ends orders the range's bindings by freeAt.
	ends ends
	// declined counts the quarantined addresses.
	declined int
}

func newPool(s Subnet) (*pool, error) {
	p := &pool{Subnet: s}
	if !s.Prefix.IsValid() || !s.Prefix.Addr().Is4() {
		return nil, fmt.Errorf("subnet %q: %s is no IPv4 prefix", s.Name, s.Prefix)
	}
	if s.LeaseTime < time.Minute {
		return nil, fmt.Errorf("subnet %q: lease time %s is shorter than a minute", s.Name, s.LeaseTime)
	}
	if !s.First.IsValid() && !s.Last.IsValid() {
		return p, nil
	}
	if !s.Prefix.Contains(s.First) || !s.Prefix.Contains(s.Last) || s.Last.Less(s.First) {
		return nil, fmt.Errorf("subnet %q: range %s to %s does not lie in %s", s.Name, s.First, s.Last, s.Prefix)
	}
	p.first = number(s.First)
	p.size = number(s.Last) - p.first + 1
	if p.size > MaxRange {
		return nil, fmt.Errorf("subnet %q: range of %d addresses, at most %d are possible", s.Name, p.size, MaxRange)
	}
	p.taken = make([]uint64, (p.size+63)/64)
	for _, a := range s.Exclude {
		p.take(a)
	}
	if s.Prefix.Bits() < 31 { // RFC 3021: both addresses of a /31 are hosts
		p.take(s.Prefix.Masked().Addr())
		p.take(broadcast(s.Prefix))
	}
	return p, nil
}

// inRange reports whether a lies between the range's ends, reserved and excluded ones included.
func (p *pool) inRange(a netip.Addr) bool {
	return a.Is4() && p.size > 0 && number(a) >= p.first && number(a)-p.first < p.size
}

func (p *pool) take(a netip.Addr) {
	if p.inRange(a) {
		n := number(a) - p.first
		p.taken[n/64] |= 1 << (n % 64)
	}
}

func (p *pool) isTaken(a netip.Addr) bool {
	n := number(a) - p.first
	return p.taken[n/64]&(1<<(n%64)) != 0
}

func (p *pool) untake(a netip.Addr) {
	n := number(a) - p.first
	p.taken[n/64] &^= 1 << (n % 64)
}

// fresh finds an address without a binding, searching upwards from a place that depends on the client alone.
func (p *pool) fresh(k key) (netip.Addr, bool) {
	if p.size == 0 {
		return netip.Addr{}, false
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(k)) // never fails
	start := h.Sum32() % p.size
	if n, ok := p.zeroBit(start, p.size); ok {
		return address(p.first + n), true
	}
	n, ok := p.zeroBit(0, start)
	return address(p.first + n), ok
}

// zeroBit finds the first clear bit of taken in [from, to).
func (p *pool) zeroBit(from, to uint32) (uint32, bool) {
	for n := from; n < to; n = n/64*64 + 64 {
		free := ^p.taken[n/64] >> (n % 64)
		if free == 0 {
			continue
		}
		n += uint32(bits.TrailingZeros64(free))
		return n, n < to
	}
	return 0, false
}

// oldest gives the binding that has been free for longest, nil if none is free.
func (p *pool) oldest(now time.Time) *binding {
	if len(p.ends) == 0 || p.ends[0].active(now) {
		return nil
	}
	return p.ends[0]
}

// add puts b under the pool's care.
func (p *pool) add(b *binding) {
	b.pool = p
	p.take(b.addr)
	heap.Push(&p.ends, b)
	if b.state == Declined {
		p.declined++
	}
}

// remove takes b out again; its address becomes fresh.
func (p *pool) remove(b *binding) {
	heap.Remove(&p.ends, b.index)
	p.untake(b.addr)
	if b.state == Declined {
		p.declined--
	}
	b.pool = nil
}

// ends is a heap of bindings by freeAt.
type ends []*binding

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].freeAt().Before(e[j].freeAt()) }
func (e ends) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].index, e[j].index = i, j
}

// Push is heap.Interface's.
func (e *ends) Push(x any) {
	b := x.(*binding)
	b.index = len(*e)
	*e = append(*e, b)
}

// Pop is heap.Interface's.
func (e *ends) Pop() any {
	old := *e
	b := old[len(old)-1]
	old[len(old)-1] = nil
	*e = old[:len(old)-1]
	return b
}

// number is an IPv4 address as an integer.
func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func address(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// broadcast is the last address of p.
func broadcast(p netip.Prefix) netip.Addr {
	return address(number(p.Masked().Addr()) | uint32(uint64(1)<<(32-p.Bits())-1))
}
