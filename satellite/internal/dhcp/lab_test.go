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
	db, err := state.Open(spec.DB)
	if err != nil {
		return err
	}
	defer db.Close()
	log, err := state.NewLeases(db.DB())
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
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
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
	for f := range strings.FieldsSeq(line) {
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
	db, err := state.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log, err := state.NewLeases(db.DB())
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[netip.Addr]string)
	for _, l := range s.Leases() {
		found[l.Addr] = l.Client.MAC.String() + " " + string(l.State)
	}
	return found
}
