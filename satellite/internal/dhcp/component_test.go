//go:build component

package dhcp

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/ra"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/state"
)

// patience bounds each wait of a component test; it says nothing about how long things take.
const patience = 60 * time.Second

// serverSpec is what a server process is told by its environment.
type serverSpec struct {
	DB       string
	Settings Settings // interfaces need no index
	NoRA     bool
	Quiet    bool // prints no events
}

const serverEnv = "DHCP_TEST_SERVER"

// TestMain lets the test binary stand in for a satellite that can be killed.
func TestMain(m *testing.M) {
	if spec := os.Getenv(serverEnv); spec != "" {
		if err := serve(spec); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serve runs a server until SIGTERM. It prints "ready" and then an event per line.
func serve(text string) error {
	var spec serverSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	var names []string
	for i := range spec.Settings.Interfaces {
		n := &spec.Settings.Interfaces[i]
		nic, err := net.InterfaceByName(n.Name)
		if err != nil {
			return err
		}
		n.Index, names = nic.Index, append(names, n.Name)
	}
	db, err := bbolt.Open(spec.DB, 0o600, &bbolt.Options{Timeout: 5 * time.Second})
	if err != nil {
		return err
	}
	defer db.Close()
	log, err := state.NewLeases(db)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var out sync.Mutex
	s, err := New(Config{Settings: spec.Settings, Log: log, Logger: logger, OnEvent: func(e Event) {
		if spec.Quiet {
			return
		}
		out.Lock()
		defer out.Unlock()
		fmt.Println("event", e.Kind, e.Stage, e.MAC, e.Addr, e.UUID, e.Detail)
	}})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var tasks sync.WaitGroup
	if !spec.NoRA {
		r, err := ra.New(ra.Config{Interfaces: names, Logger: logger})
		if err != nil {
			return err
		}
		tasks.Go(func() { _ = r.Run(ctx) })
		<-r.Ready()
	}
	tasks.Go(func() {
		<-s.Ready()
		fmt.Println("ready")
	})
	err = s.Run(ctx)
	tasks.Wait()
	return err
}

// lines is the output of a process as it comes.
type lines struct {
	t    testing.TB
	name string
	ch   chan string
	seen []string
}

// start runs a program in a host; its standard output comes as lines, its standard error goes to a log that is shown on failure.
func start(t testing.TB, h *testnet.Host, spec testnet.Proc) (*testnet.Process, *lines) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	spec.Stdout = w
	spec.LogFile = filepath.Join(t.TempDir(), h.Name+"-"+filepath.Base(spec.Path)+".log")
	p, err := h.Start(t.Context(), spec)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	l := &lines{t: t, name: h.Name + " " + filepath.Base(spec.Path), ch: make(chan string, 10_000)}
	go func() {
		defer close(l.ch)
		defer r.Close()
		for s := bufio.NewScanner(r); s.Scan(); {
			l.ch <- s.Text()
		}
	}()
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(spec.LogFile)
			t.Logf("%s, standard error:\n%s", l.name, b)
		}
	})
	return p, l
}

// expect waits for a line with all of the words.
func (l *lines) expect(words ...string) string {
	l.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case s, ok := <-l.ch:
			if !ok {
				l.t.Fatalf("%s ended before it said %q; it said:\n%s", l.name, words, strings.Join(l.seen, "\n"))
			}
			l.seen = append(l.seen, s)
			if containsAll(s, words) {
				return s
			}
		case <-timeout:
			l.t.Fatalf("%s never said %q; it said:\n%s", l.name, words, strings.Join(l.seen, "\n"))
		}
	}
}

func containsAll(s string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(s, w) {
			return false
		}
	}
	return true
}

// rest waits until the process has closed its output and gives all that it said.
func (l *lines) rest() string {
	for s := range l.ch {
		l.seen = append(l.seen, s)
	}
	return strings.Join(l.seen, "\n")
}

// lab is a LAN with a satellite at 192.168.67.1.
type lab struct {
	t    testing.TB
	net  *testnet.Lab
	lan  *testnet.Bridge
	sat  *testnet.Host
	spec serverSpec
}

func newLab(t testing.TB, mode Mode, change ...func(*serverSpec)) *lab {
	t.Helper()
	net, err := testnet.New(t.Context(), testnet.Config{Prefix: "dh", Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := net.Close(); err != nil {
			t.Error(err)
		}
	})
	lan, err := net.Bridge("lan")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, net: net, lan: lan}
	l.sat = l.host("sat", "192.168.67.1/24")
	settings := newBench(t, mode).settings
	settings.Interfaces = []Interface{{Name: "lan", Addr: netip.MustParsePrefix("192.168.67.1/24")}}
	l.spec = serverSpec{DB: filepath.Join(t.TempDir(), "leases.db"), Settings: settings}
	for _, f := range change {
		f(&l.spec)
	}
	return l
}

func (l *lab) host(name string, addrs ...string) *testnet.Host {
	l.t.Helper()
	h, err := l.net.Host(name, l.lan.At(addrs...))
	if err != nil {
		l.t.Fatal(err)
	}
	return h
}

// serve starts the server and waits until it is ready.
func (l *lab) serve() (*testnet.Process, *lines) {
	l.t.Helper()
	spec, err := json.Marshal(l.spec)
	if err != nil {
		l.t.Fatal(err)
	}
	p, out := start(l.t, l.sat, testnet.Proc{Path: os.Args[0], Env: []string{serverEnv + "=" + string(spec)}})
	out.expect("ready")
	return p, out
}

// stop ends a process and gives what it said.
func (l *lab) stop(p *testnet.Process, out *lines) string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		l.t.Error(err)
	}
	return out.rest()
}

// hook writes the script that a DHCP client calls. It sets the address and tells what it knows.
func (l *lab) hook(name, script string) string {
	l.t.Helper()
	file := filepath.Join(l.t.TempDir(), name)
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		l.t.Fatal(err)
	}
	return file
}

const udhcpcScript = `
case "$1" in
deconfig) ip addr flush dev $interface; ip link set $interface up;;
bound|renew) ip addr replace $ip/$mask dev $interface;;
esac
echo "$1 ip=$ip mask=$mask router=$router dns=$dns domain=$domain lease=$lease server=$serverid"
`

const dhclientScript = `
case "$reason" in
PREINIT) ip link set $interface up;;
BOUND|RENEW|REBIND|REBOOT) ip addr replace $new_ip_address/24 dev $interface;;
EXPIRE|FAIL|RELEASE|STOP) ip addr flush dev $interface;;
esac
echo "$reason ip=$new_ip_address router=$new_routers dns=$new_domain_name_servers domain=$new_domain_name lease=$new_dhcp_lease_time server=$new_dhcp_server_identifier boot=$new_filename"
`

// udhcpc starts a client that stays until it is told to end. USR1 makes it renew, USR2 release.
func (l *lab) udhcpc(h *testnet.Host, args ...string) (*testnet.Process, *lines) {
	args = append([]string{"-f", "-i", "lan", "-s", l.hook("udhcpc.sh", udhcpcScript), "-T", "1", "-t", "5"}, args...)
	return start(l.t, h, testnet.Proc{Path: "udhcpc", Args: args})
}

// dhclient gives the command line of a client in the foreground that keeps its leases in dir.
func (l *lab) dhclient(dir string, args ...string) testnet.Proc {
	conf := filepath.Join(dir, "dhclient.conf")
	if err := os.WriteFile(conf, []byte("timeout 30;\ninitial-interval 1;\n"), 0o600); err != nil {
		l.t.Fatal(err)
	}
	args = append([]string{
		"-4", "-v", "-cf", conf, "-sf", l.hook("dhclient.sh", dhclientScript),
		"-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"),
	}, append(args, "lan")...)
	return testnet.Proc{Path: "dhclient", Args: args}
}

// runDhclient runs the client until it ends or goes into the background, and gives the line with the word.
func (l *lab) runDhclient(h *testnet.Host, dir, word string, args ...string) string {
	l.t.Helper()
	p, out := start(l.t, h, l.dhclient(dir, args...))
	line := out.expect(word)
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		l.t.Fatalf("dhclient %q: %v", args, err)
	}
	return line
}

// field gives the value of name=value in a line.
func field(t testing.TB, line, name string) string {
	t.Helper()
	for _, f := range strings.Fields(line) {
		if v, ok := strings.CutPrefix(f, name+"="); ok {
			return v
		}
	}
	t.Fatalf("no %s in %q", name, line)
	return ""
}

// stored gives the lease records in a database that nobody has open.
func stored(t *testing.T, file string) map[netip.Addr]string {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s, err := New(Config{Log: must(state.NewLeases(db))})
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[netip.Addr]string)
	for _, l := range s.Leases() {
		found[l.Addr] = l.Client.MAC.String() + " " + string(l.State)
	}
	return found
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestUdhcpcObtainsRenewsReleases(t *testing.T) {
	l := newLab(t, Authoritative)
	srv, events := l.serve()
	c := l.host("c1")
	p, out := l.udhcpc(c)
	bound := out.expect("bound")
	addr := field(t, bound, "ip")
	for name, want := range map[string]string{
		"mask": "24", "router": "192.168.67.1", "dns": "192.168.67.1", "domain": "school.example", "lease": "43200", "server": "192.168.67.1",
	} {
		if got := field(t, bound, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	events.expect("event ack", addr)
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := field(t, out.expect("renew"), "ip"); got != addr {
		t.Errorf("renewal gave %s instead of %s", got, addr)
	}
	events.expect("event ack", addr)
	if err := p.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	out.expect("deconfig")
	l.stop(p, out)
	// The release has no answer; the next exchange of another client comes after it in the server's queue.
	p, out = l.udhcpc(l.host("c2"), "-q", "-n")
	out.expect("bound")
	l.stop(p, out)
	l.stop(srv, events)
	if got := stored(t, l.spec.DB)[netip.MustParseAddr(addr)]; !strings.HasSuffix(got, "released") {
		t.Errorf("after the release: %q", got)
	}
}

func TestDhclientObtainsRebootsReleases(t *testing.T) {
	l := newLab(t, Authoritative)
	srv, events := l.serve()
	c, dir := l.host("c1"), t.TempDir()
	bound := l.runDhclient(c, dir, "BOUND", "-1") // goes into the background once the lease is on its disk
	addr := field(t, bound, "ip")
	if field(t, bound, "router") != "192.168.67.1" || field(t, bound, "server") != "192.168.67.1" || field(t, bound, "boot") != "" {
		t.Errorf("bound: %s", bound)
	}
	l.runDhclient(c, dir, "STOP", "-x")
	if got := field(t, l.runDhclient(c, dir, "REBOOT", "-1"), "ip"); got != addr { // it has a lease on file: INIT-REBOOT
		t.Errorf("reboot gave %s instead of %s", got, addr)
	}
	l.runDhclient(c, dir, "RELEASE", "-r")
	p, out := l.udhcpc(l.host("c2"), "-q", "-n")
	out.expect("bound")
	l.stop(p, out)
	l.stop(srv, events)
	if got := stored(t, l.spec.DB)[netip.MustParseAddr(addr)]; !strings.HasSuffix(got, "released") {
		t.Errorf("after the release: %q", got)
	}
}

func TestTwoClientsAndAFullRange(t *testing.T) {
	l := newLab(t, Authoritative, func(s *serverSpec) {
		s.Settings.Subnets[0].RangeStart = netip.MustParseAddr("192.168.67.100")
		s.Settings.Subnets[0].RangeEnd = netip.MustParseAddr("192.168.67.101")
	})
	srv, events := l.serve()
	_, out1 := l.udhcpc(l.host("c1"))
	_, out2 := l.udhcpc(l.host("c2"))
	a, b := field(t, out1.expect("bound"), "ip"), field(t, out2.expect("bound"), "ip")
	if a == b {
		t.Fatalf("both clients got %s", a)
	}
	// Each reaches the satellite from its address: the frames that carried the answers did no harm to anybody's ARP cache.
	p, out := l.udhcpc(l.host("c3"), "-n", "-t", "2")
	if said := out.rest(); strings.Contains(said, "bound") {
		t.Errorf("third client of a range of two:\n%s", said)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Wait(ctx); err == nil {
		t.Error("udhcpc was content without an address")
	}
	l.stop(srv, events)
	if n := len(stored(t, l.spec.DB)); n != 2 {
		t.Errorf("%d leases stored", n)
	}
}

func TestKilledServerKeepsLeases(t *testing.T) {
	l := newLab(t, Authoritative)
	srv, _ := l.serve()
	p, out := l.udhcpc(l.host("c1"))
	addr := field(t, out.expect("bound"), "ip")
	if err := srv.Kill9(); err != nil {
		t.Fatal(err)
	}
	_, events := l.serve()
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := field(t, out.expect("renew"), "ip"); got != addr {
		t.Errorf("renewal after the crash gave %s instead of %s", got, addr)
	}
	events.expect("event ack", addr)
	_, out = l.udhcpc(l.host("c2"), "-r", addr)
	if got := field(t, out.expect("bound"), "ip"); got == addr {
		t.Errorf("%s was given twice", addr)
	}
}

// TestKillInTheMiddleLosesNoLease kills the server while 200 clients are being served: every address that a client was promised
// must be in the database, for that client.
func TestKillInTheMiddleLosesNoLease(t *testing.T) {
	l := newLab(t, Authoritative)
	srv, _ := l.serve()
	crowd := newCrowd(t, l.host("crowd"), 200)
	crowd.discover()
	crowd.run(func(acked int) bool { return acked < 60 })
	if err := srv.Kill9(); err != nil {
		t.Fatal(err)
	}
	crowd.collect() // what was on its way
	found := stored(t, l.spec.DB)
	for addr, mac := range crowd.acked {
		if found[addr] != mac.String()+" bound" {
			t.Errorf("%s was promised to %s; the database says %q", addr, mac, found[addr])
		}
	}
	if len(crowd.acked) < 60 {
		t.Errorf("only %d ACKs seen", len(crowd.acked))
	}
}

// TestCrowd switches 200 PCs on in one moment. None repeats anything.
func TestCrowd(t *testing.T) {
	l := newLab(t, Authoritative)
	srv, events := l.serve()
	crowd := newCrowd(t, l.host("crowd"), 200)
	crowd.discover()
	crowd.run(func(acked int) bool { return acked < 200 })
	if len(crowd.acked) != 200 || len(crowd.byMAC) != 200 {
		t.Errorf("%d addresses for %d clients", len(crowd.acked), len(crowd.byMAC))
	}
	l.stop(srv, events)
	if n := len(stored(t, l.spec.DB)); n != 200 {
		t.Errorf("%d leases stored", n)
	}
}

// TestProxyBesideDnsmasq: a foreign server gives the addresses, the satellite adds boot files and stays out of everything else.
func TestProxyBesideDnsmasq(t *testing.T) {
	l := newLab(t, Proxy)
	router := l.host("rt", "192.168.67.254/24")
	_, foreign := start(t, router, testnet.Proc{Path: "sh", Args: []string{"-c",
		"exec dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=lan --bind-interfaces --user=root --no-ping --log-dhcp " +
			"--leasefile-ro --dhcp-range=192.168.67.180,192.168.67.190,12h --log-facility=- 2>&1"}})
	foreign.expect("DHCP, IP range")
	srv, events := l.serve()

	dir := t.TempDir()
	_, out := start(t, l.host("c1"), l.dhclient(dir, "-d"))
	bound := out.expect("BOUND")
	if field(t, bound, "server") != "192.168.67.254" || field(t, bound, "boot") != "" {
		t.Errorf("plain client: %s", bound)
	}
	offers := offersFor(t, l.host("c2"), pxe(0))
	for _, m := range offers {
		switch m.ServerIdentifier().String() {
		case "192.168.67.1":
			if ip4(m.YourIPAddr).IsValid() || m.BootFileName != "ltsp/undionly.kpxe" {
				t.Errorf("the proxy's offer:\n%s", m.Summary())
			}
		case "192.168.67.254":
			if !ip4(m.YourIPAddr).IsValid() || m.BootFileName != "" {
				t.Errorf("the router's offer:\n%s", m.Summary())
			}
		}
	}
	said := l.stop(srv, events)
	if n := strings.Count(said, "event"); n != 2 || !strings.Contains(said, "event proxy-offer firmware 02:00:00:00:00:00") {
		t.Errorf("the satellite took part in more than the PXE client's discover:\n%s", said)
	}
	if n := len(stored(t, l.spec.DB)); n != 0 {
		t.Errorf("%d leases in proxy mode", n)
	}
}

// TestStrangerIsProbed has an address taken by a host that DHCP never heard of.
func TestStrangerIsProbed(t *testing.T) {
	l := newLab(t, Authoritative, func(s *serverSpec) {
		s.Settings.Subnets[0].RangeStart = netip.MustParseAddr("192.168.67.100")
		s.Settings.Subnets[0].RangeEnd = netip.MustParseAddr("192.168.67.101")
	})
	srv, events := l.serve()
	var taken string
	for n := range 2 { // both addresses are leased and released
		h := l.host(fmt.Sprintf("c%d", n))
		p, out := l.udhcpc(h, "-R")
		addr := field(t, out.expect("bound"), "ip")
		if n == 0 { // the one that will be reused first
			taken = addr
		}
		if err := p.Signal(syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		out.expect("deconfig")
		if err := h.IP("link", "set", "lan", "down"); err != nil {
			t.Fatal(err)
		}
	}
	l.host("squat", taken+"/24")
	_, out := l.udhcpc(l.host("c9"))
	if got := field(t, out.expect("bound"), "ip"); got == taken {
		t.Errorf("%s is in use and was given away", taken)
	}
	l.stop(srv, events)
	if who := stored(t, l.spec.DB)[netip.MustParseAddr(taken)]; !strings.HasSuffix(who, "declined") {
		t.Errorf("stranger's address is stored as %q", who)
	}
}
