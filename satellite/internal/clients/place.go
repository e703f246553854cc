package clients

import (
	"fmt"
	"net/netip"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// place is where this satellite itself saw a client in its present boot. What the client says of itself is not in it.
type place struct {
	// Leased is the address that this satellite's DHCP server gave it.
	Leased netip.Addr `json:"leased"`
	// Asked is where its boot script, kernel or configuration was asked for in its name. Any machine can ask in any name, so it counts only where no lease is
	// known.
	Asked netip.Addr `json:"asked"`
}

func (p *place) saw(s Sighting) {
	switch {
	case !s.Addr.IsValid() || s.Addr.IsUnspecified():
	case s.Leased:
		p.Leased = s.Addr
	case s.Step == StepScript || s.Step == StepConfig:
		p.Asked = s.Addr
	}
}

// is tells whether addr is the place.
func (p *place) is(addr netip.Addr) bool {
	if p.Leased.IsValid() {
		return addr == p.Leased
	}
	return p.Asked.IsValid() && addr == p.Asked
}

// Proven tells whether a hello that arrived from addr comes from the client that it names: its token is one of the client's, and addr is its address by what this
// satellite saw, not by what the client says. On the local network the kernel's neighbour table decides; behind a router, or where the table has no
// entry, the lease of this boot, or without one the address that asked for the boot script. It changes nothing. ErrToken, ErrAddress.
func (r *Registry) Proven(h agentproto.Hello, addr netip.Addr) error {
	addr = addr.Unmap()
	r.mu.Lock()
	valid := r.validLocked(h.MAC, h.Token)
	var p place
	if c := r.clients[h.MAC]; c != nil {
		p = c.place
	}
	r.mu.Unlock()
	if !valid {
		return fmt.Errorf("%w: %s", ErrToken, h.MAC)
	}
	mac, err := r.cfg.Neighbour(addr)
	switch {
	case err != nil:
		r.log.Warn("neighbours can't be asked", "err", err)
	case mac == h.MAC:
		return nil
	case mac != "":
		return fmt.Errorf("%w: %s belongs to %s, not to %s", ErrAddress, addr, mac, h.MAC)
	}
	if !p.is(addr) {
		return fmt.Errorf("%w: %s was not seen at %s in this boot", ErrAddress, h.MAC, addr)
	}
	return nil
}
