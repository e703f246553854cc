package testnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
)

// Link plugs a host into a bridge.
type Link struct {
	Bridge *Bridge
	Addr   string // addresses with prefix length, separated by commas; empty: none
	Name   string // interface name inside the host; empty: the bridge's name
	MAC    string // hardware address; empty: the kernel's choice
}

// Host is a network namespace with interfaces on bridges. Methods are safe for concurrent use.
type Host struct {
	Name string

	lab   *Lab
	links []Link

	mu        sync.Mutex
	unplugged map[*Bridge]bool
}

// Host adds a host. The name has one to seven lower-case letters and digits, a letter first. Loopback is up, IPv6
// link-local addresses are usable at once (no duplicate address detection), reverse path filtering is off.
func (l *Lab) Host(name string, links ...Link) (*Host, error) {
	if err := l.reserve("host", name, shortName); err != nil {
		return nil, err
	}
	h := &Host{Name: name, lab: l, links: slices.Clone(links), unplugged: map[*Bridge]bool{}}
	if err := h.make(); err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	return h, nil
}

func (h *Host) make() error {
	if err := h.lab.ip(context.Background(), "netns", "add", h.Namespace()); err != nil {
		return err
	}
	if err := h.Sysctl("net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0",
		"net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"); err != nil {
		return err
	}
	if err := h.IP("link", "set", "lo", "up"); err != nil {
		return err
	}
	for i := range h.links {
		if err := h.plug(&h.links[i]); err != nil {
			return err
		}
	}
	return nil
}

// plug makes one veth pair: the host's end is named by the link, the switch's end HOST-BRIDGE.
func (h *Host) plug(link *Link) error {
	if link.Bridge == nil || link.Bridge.lab != h.lab {
		return fmt.Errorf("link %q: the bridge is not of this lab", link.Addr)
	}
	if link.Name == "" {
		link.Name = link.Bridge.Name
	}
	port := h.port(link.Bridge)
	peer := []string{"link", "add", port, "type", "veth", "peer", "name", link.Name}
	if link.MAC != "" {
		peer = append(peer, "address", link.MAC)
	}
	if err := link.Bridge.ip(append(peer, "netns", h.Namespace())...); err != nil {
		return err
	}
	if err := inNamespace(h.Namespace(), func() error { return completeChecksums(link.Name) }); err != nil {
		return err
	}
	if err := link.Bridge.ip("link", "set", port, "master", link.Bridge.Name, "up"); err != nil {
		return err
	}
	if err := h.IP("link", "set", link.Name, "up"); err != nil {
		return err
	}
	for addr := range strings.SplitSeq(link.Addr, ",") {
		if addr == "" {
			continue
		}
		if err := h.IP("addr", "add", addr, "dev", link.Name); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) port(b *Bridge) string { return h.Name + "-" + b.Name }

// Namespace is the name of the host's network namespace, for `ip netns exec`.
func (h *Host) Namespace() string { return h.lab.namespace(h.Name) }

// IP runs an ip(8) command inside the host, for example h.IP("route", "add", "default", "via", "10.77.0.254").
func (h *Host) IP(args ...string) error {
	return h.lab.ip(context.Background(), append([]string{"-n", h.Namespace()}, args...)...)
}

// Sysctl sets network settings of the host, for example h.Sysctl("net.ipv4.ip_forward=1").
func (h *Host) Sysctl(settings ...string) error {
	return inNamespace(h.Namespace(), func() error { return sysctl(settings...) })
}

// Start runs a program inside the host. It ends with ctx, with the lab, or with this process, whatever comes first.
func (h *Host) Start(ctx context.Context, spec Proc) (*Process, error) {
	spec.Namespace = h.Namespace()
	p, err := h.lab.spawner.Start(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	h.lab.log("%s: %s runs as pid %d", h.Name, p.Name, p.Pid)
	return p, nil
}

// Output runs a program inside the host to its end and returns what it printed on stdout and stderr, also with an error.
func (h *Host) Output(ctx context.Context, path string, args ...string) ([]byte, error) {
	log, err := os.CreateTemp("", "testnet-output-")
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	defer func() { _ = os.Remove(log.Name()) }()
	defer log.Close()
	p, err := h.lab.spawner.Start(ctx, Proc{Path: path, Args: args, LogFile: log.Name(), Namespace: h.Namespace()})
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	<-p.Done() // ctx ends the process
	err = p.Wait(context.Background())
	printed, readErr := io.ReadAll(log)
	if err != nil {
		err = fmt.Errorf("host %s: %w", h.Name, err)
	}
	return printed, errors.Join(err, readErr)
}

// Do runs f on an operating system thread inside the host's namespace and waits for it; sockets that f makes belong to the
// host for ever, goroutines that f starts do not run there. ctx is only looked at before f begins: f watches it itself.
func (h *Host) Do(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return inNamespace(h.Namespace(), f)
}

// Dial connects from inside the host. The address must be literal ("10.77.0.1:7400"): names are resolved outside.
func (h *Host) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	if err := checkLiteral(address); err != nil {
		return nil, fmt.Errorf("dial from host %s: %w", h.Name, err)
	}
	var dialer net.Dialer
	err = h.Do(ctx, func() error {
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen opens a stream listener inside the host on a literal address ("192.168.67.1:80", ":80").
func (h *Host) Listen(ctx context.Context, network, address string) (listener net.Listener, err error) {
	var config net.ListenConfig
	err = h.Do(ctx, func() error {
		listener, err = config.Listen(ctx, network, address)
		return err
	})
	return listener, err
}

// ListenPacket opens a datagram socket inside the host on a literal address.
func (h *Host) ListenPacket(ctx context.Context, network, address string) (conn net.PacketConn, err error) {
	var config net.ListenConfig
	err = h.Do(ctx, func() error {
		conn, err = config.ListenPacket(ctx, network, address)
		return err
	})
	return conn, err
}

// HTTPClient returns a client whose connections start inside the host; it keeps no idle connections and knows no proxy.
func (h *Host) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true}}
}

// LinkDown pulls the host's cable at the bridge: its interface loses carrier, routes and addresses stay, packets vanish.
func (h *Host) LinkDown(b *Bridge) error {
	h.lab.log("%s: link to %s down", h.Name, b.Name)
	h.mu.Lock()
	h.unplugged[b] = true
	h.mu.Unlock()
	return b.ip("link", "set", h.port(b), "down")
}

// Blackhole makes the bridge drop every frame from and to the host while the link stays up, as a broken switch between them
// would: nobody is told.
func (h *Host) Blackhole(b *Bridge) error {
	h.lab.log("%s: link to %s black hole", h.Name, b.Name)
	return b.portState(h.port(b), "disabled")
}

// LinkUp undoes LinkDown and Blackhole.
func (h *Host) LinkUp(b *Bridge) error {
	h.lab.log("%s: link to %s up", h.Name, b.Name)
	h.mu.Lock()
	unplugged := h.unplugged[b]
	delete(h.unplugged, b)
	h.mu.Unlock()
	if !unplugged {
		return b.portState(h.port(b), "forwarding")
	}
	return b.ip("link", "set", h.port(b), "up") // a port that comes up forwards, whatever it did before
}

func (b *Bridge) portState(port, state string) error {
	return command(context.Background(), "bridge", "-n", b.lab.SwitchNamespace(), "link", "set", "dev", port, "state", state)
}

func checkLiteral(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return fmt.Errorf("%s is no literal address: %w", address, err)
	}
	return nil
}
