package dhcp4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"
)

// Offered is an address with what comes with it. Fields that the server did not fill are zero.
type Offered struct {
	Client   netip.Prefix
	Gateway  netip.Addr
	Server   netip.Addr // DHCP server identifier
	DNS      []netip.Addr
	Hostname string
	Domain   string
	Lease    time.Duration
}

// Conn carries packets. Receive returns os.ErrDeadlineExceeded when the deadline has passed.
type Conn interface {
	Send(packet []byte, to netip.Addr) error
	Receive(deadline time.Time) ([]byte, error)
}

var (
	// ErrNoAnswer tells that no usable answer came.
	ErrNoAnswer = errors.New("no DHCP server answered")
	// ErrRefused tells that a server took its offer back.
	ErrRefused = errors.New("DHCP server refused")
)

// limitedBroadcast is where a client without an address sends to.
var limitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// Acquire gets an address by DISCOVER and REQUEST (RFC 2131 section 4.4.1). It tries again after 1, 2, 4 and then every 8 seconds until ctx ends.
// Offers without an address, which proxyDHCP servers make, are passed over. Replies are asked for as broadcasts, because
// a NIC without an address cannot receive others.
func Acquire(ctx context.Context, conn Conn, mac net.HardwareAddr) (Offered, error) {
	wait := time.Second
	for {
		offer, err := try(ctx, conn, mac, wait)
		if err == nil {
			return offer, nil
		}
		if ctx.Err() != nil || !errors.Is(err, ErrNoAnswer) && !errors.Is(err, ErrRefused) {
			return Offered{}, err
		}
		if errors.Is(err, ErrRefused) && !pause(ctx, wait) { // a refusal comes at once; only silence has waited already
			return Offered{}, err
		}
		wait = min(2*wait, 8*time.Second)
	}
}

// pause tells whether the time has passed before ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func try(ctx context.Context, conn Conn, mac net.HardwareAddr, wait time.Duration) (Offered, error) {
	xid := rand.Uint32()
	discover := NewRequest(Discover, xid, mac)
	discover.Broadcast = true
	offer, err := ask(ctx, conn, discover, wait, func(p Packet) bool {
		return p.Type() == Offer && p.YourIP.IsValid() && p.Addr(OptServerID).IsValid()
	})
	if err != nil {
		return Offered{}, fmt.Errorf("discover: %w", err)
	}
	request := NewRequest(Request, xid, mac)
	request.Broadcast = true
	request.Options[OptRequestedIP] = offer.YourIP.AsSlice()
	request.Options[OptServerID] = offer.Addr(OptServerID).AsSlice()
	ack, err := ask(ctx, conn, request, wait, func(p Packet) bool {
		ok := p.Type() == Ack && p.YourIP == offer.YourIP || p.Type() == Nak
		return ok && p.Addr(OptServerID) == offer.Addr(OptServerID)
	})
	if err != nil {
		return Offered{}, fmt.Errorf("request %v: %w", offer.YourIP, err)
	}
	if ack.Type() == Nak {
		return Offered{}, fmt.Errorf("request %v: %w: %v", offer.YourIP, ErrRefused, ack.Addr(OptServerID))
	}
	return offered(ack), nil
}

// ask sends p and returns the first reply that is wanted.
func ask(ctx context.Context, conn Conn, p Packet, wait time.Duration, wanted func(Packet) bool) (Packet, error) {
	if err := conn.Send(p.Encode(), limitedBroadcast); err != nil {
		return Packet{}, err
	}
	deadline := time.Now().Add(wait)
	end, bounded := ctx.Deadline()
	if bounded = bounded && end.Before(deadline); bounded {
		deadline = end
	}
	for {
		if err := ctx.Err(); err != nil {
			return Packet{}, err
		}
		data, err := conn.Receive(deadline)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if bounded {
				<-ctx.Done() // it is due now; the caller asks ctx whether to try again
			}
			return Packet{}, ErrNoAnswer
		}
		if err != nil {
			return Packet{}, err
		}
		reply, err := Parse(data)
		if err == nil && reply.Answers(p.XID, p.MAC) && wanted(reply) {
			return reply, nil
		}
	}
}

func offered(p Packet) Offered {
	length := 24
	if v := p.Options[OptMask]; len(v) == 4 {
		length = bits.LeadingZeros32(^binary.BigEndian.Uint32(v))
	}
	o := Offered{
		Client: netip.PrefixFrom(p.YourIP, length), Gateway: p.Addr(OptRouter), Server: p.Addr(OptServerID), DNS: p.Addrs(OptDNS),
		Hostname: string(p.Options[OptHostname]), Domain: string(p.Options[OptDomain]),
	}
	o.Lease, _ = p.Duration(OptLeaseTime)
	return o
}
