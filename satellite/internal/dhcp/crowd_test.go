//go:build component

package dhcp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// A crowd is many PCs behind one network card: it sends frames of its own and hears all. Every second PC sets the broadcast flag.
type crowd struct {
	t     *testing.T
	conn  *packet.Conn
	n     int
	begun int
	mods  []dhcpv4.Modifier
	acked map[netip.Addr]lease.MAC
	byMAC map[lease.MAC]netip.Addr
}

func newCrowd(t *testing.T, h *testnet.Host, n int, mods ...dhcpv4.Modifier) *crowd {
	t.Helper()
	c := &crowd{t: t, n: n, mods: mods, acked: make(map[netip.Addr]lease.MAC), byMAC: make(map[lease.MAC]netip.Addr)}
	err := h.Do(t.Context(), func() error {
		nic, err := net.InterfaceByName("lan")
		if err != nil {
			return err
		}
		if err := awaitSwitch(nic); err != nil {
			return err
		}
		if c.conn, err = packet.Listen(nic, packet.Raw, unix.ETH_P_IP, nil); err != nil {
			return err
		}
		raw, err := c.conn.SyscallConn()
		if err != nil {
			return err
		}
		return errors.Join(c.conn.SetPromiscuous(true), raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
		}), err)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.conn.Close() })
	return c
}

// awaitSwitch waits until the switch forwards what comes from a new port: the satellite answers an ARP probe.
func awaitSwitch(nic *net.Interface) error {
	l := &link{nic: nic}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if used, err := l.probe(netip.MustParseAddr("192.168.67.1"), lease.MAC{}); used || err != nil {
			return err
		}
	}
	return errors.New("the satellite can't be reached")
}

func (c *crowd) send(i int, m *dhcpv4.DHCPv4) {
	c.t.Helper()
	mac := [6]byte(m.ClientHWAddr)
	all := [6]byte{255, 255, 255, 255, 255, 255}
	f := frame(mac, all, netip.MustParseAddrPort("0.0.0.0:68"), netip.AddrPortFrom(broadcastAddr(), 67), m.ToBytes())
	if _, err := c.conn.WriteTo(f, &packet.Addr{HardwareAddr: all[:]}); err != nil {
		c.t.Fatalf("client %d: %v", i, err)
	}
}

// maxUnanswered bounds the DISCOVERs on their way. The lab's switch has room for 1,000 frames in all (net.core.netdev_max_backlog);
// what comes on top is lost there and never reaches the server.
const maxUnanswered = 1000

// discover sends the DISCOVERs of the first clients; each offer lets another begin.
func (c *crowd) discover() {
	for range min(c.n, maxUnanswered) {
		c.begin()
	}
}

// begin sends the DISCOVER of the next client, if there is one.
func (c *crowd) begin() {
	if c.begun == c.n {
		return
	}
	i := c.begun
	c.begun++
	mods := append([]dhcpv4.Modifier{
		dhcpv4.WithHwAddr([]byte{2, 0, 0, 0, byte(i >> 8), byte(i)}), dhcpv4.WithBroadcast(i%2 == 1),
	}, c.mods...)
	c.send(i, client(dhcpv4.MessageTypeDiscover, mods...))
}

// run answers offers and collects ACKs as long as more says so.
func (c *crowd) run(more func(acked int) bool) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for more(len(c.acked)) {
		m, err := c.read(deadline)
		if err != nil {
			c.t.Fatalf("%d of %d served: %v", len(c.acked), c.n, err)
		}
		c.take(m)
	}
}

// collect takes what has been sent already.
func (c *crowd) collect() {
	for {
		m, err := c.read(time.Now().Add(200 * time.Millisecond))
		if err != nil {
			return
		}
		if m.MessageType() == dhcpv4.MessageTypeAck {
			c.take(m)
		}
	}
}

func (c *crowd) take(m *dhcpv4.DHCPv4) {
	switch m.MessageType() {
	case dhcpv4.MessageTypeOffer:
		c.begin()
		req := client(dhcpv4.MessageTypeRequest, dhcpv4.WithHwAddr(m.ClientHWAddr), dhcpv4.WithBroadcast(m.IsBroadcast()),
			dhcpv4.WithTransactionID(m.TransactionID), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(m.YourIPAddr)),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(m.ServerIdentifier())))
		c.send(0, req)
	case dhcpv4.MessageTypeAck:
		addr, mac := ip4(m.YourIPAddr), lease.MAC(m.ClientHWAddr)
		if o, ok := c.acked[addr]; ok && o != mac {
			c.t.Errorf("%s was given to %s and %s", addr, o, mac)
		}
		c.acked[addr], c.byMAC[mac] = mac, addr
	default:
		c.t.Errorf("%s for %s", m.MessageType(), m.ClientHWAddr)
	}
}

// read waits for a DHCP message to a client and checks how it was addressed.
func (c *crowd) read(deadline time.Time) (*dhcpv4.DHCPv4, error) {
	buf := make([]byte, 2048)
	if err := c.conn.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	for {
		n, _, err := c.conn.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil, errors.New("nothing came")
			}
			return nil, err
		}
		d, ok := udp4(buf[:n])
		if !ok || d.dst.Port() != clientPort {
			continue
		}
		m, err := dhcpv4.FromBytes(d.payload)
		if err != nil {
			return nil, err
		}
		toAll := d.dst.Addr() == broadcastAddr()
		if m.IsBroadcast() != toAll || !toAll && (lease.MAC(d.frame[:6]) != lease.MAC(m.ClientHWAddr) || d.dst.Addr() != ip4(m.YourIPAddr)) {
			c.t.Errorf("reply for %s with flags %#x went to %x, %s", m.ClientHWAddr, m.Flags, d.frame[:6], d.dst)
		}
		return m, nil
	}
}

// offersFor sends one DISCOVER and gives the offers of two servers.
func offersFor(t *testing.T, h *testnet.Host, mods []dhcpv4.Modifier) []*dhcpv4.DHCPv4 {
	t.Helper()
	c := newCrowd(t, h, 1, append(mods, dhcpv4.WithBroadcast(true))...)
	c.discover()
	var offers []*dhcpv4.DHCPv4
	for len(offers) < 2 {
		m, err := c.read(time.Now().Add(patience))
		if err != nil {
			t.Fatalf("%d offers: %v", len(offers), err)
		}
		offers = append(offers, m)
	}
	return offers
}
