// Package testnet builds a small network out of Linux network namespaces: bridges, hosts on them, taps for virtual machines,
// packet captures and a TCP relay that can be slow or cut. The component and VM tests and the demo use it; it does not import
// package testing and nothing of the product.
//
//	lab, err := testnet.New(ctx, testnet.Config{Prefix: "e2e", Log: log.Printf})
//	defer lab.Close()
//	wan, err := lab.Bridge("wan")
//	lan, err := lab.Bridge("lan")
//	ctrl, err := lab.Host("ctrl", wan.At("10.77.0.1/24"))
//	sat, err := lab.Host("sat1", wan.At("10.77.0.11/24"), lan.At("192.168.67.1/24", "fd67::1/64"))
//	tap, err := lan.Tap("vm0")
//	p, err := sat.Start(ctx, testnet.Proc{Path: "ltsp-satellite", Args: []string{"serve"}, LogFile: "sat1.log"})
//
// All bridges and taps live in one namespace, LABEL-sw; each host has its own, LABEL-NAME. Nothing is added to the
// namespace of the machine, so a lab has no way out and any number of labs run side by side. A person looks into a lab with
// `ip netns exec LABEL-NAME COMMAND`.
package testnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet/proc"
)

const (
	commandTimeout = 30 * time.Second // one ip(8) command; they take milliseconds
	switchName     = "sw"             // the namespace of bridges and taps
	maxLabels      = 100              // labs of one prefix at once
	namespaceDir   = "/run/netns"     // where ip-netns(8) keeps names
)

// prefixPattern keeps labels free of '-', so that the namespaces of one label are never a prefix of another's.
var prefixPattern = regexp.MustCompile(`^[a-z][a-z0-9]{0,7}$`)

// Proc says what Host.Start runs; its Namespace field is set by the host.
type Proc = proc.Spec

// Process is a program running in the lab.
type Process = proc.Process

// Config describes a lab.
type Config struct {
	// Prefix begins the names of all namespaces: one to eight lower-case letters and digits, a letter first. When a live lab
	// on this machine uses it already, a number is appended (see Lab.Label).
	Prefix string
	// Log receives what a person watching would like to know; nil discards it.
	Log func(format string, args ...any)
}

// Lab is a set of namespaces. Methods are safe for concurrent use.
type Lab struct {
	label   string
	log     func(format string, args ...any)
	owner   net.Listener // held as long as the lab lives
	spawner *proc.Spawner

	mu      sync.Mutex
	closed  bool
	names   map[string]bool // bridges, taps and hosts
	closers []func()        // captures and relays, newest last
}

// Missing returns the Debian packages that a lab needs and this machine lacks, nil when there are none.
func Missing() []string {
	var missing []string
	for _, tool := range []struct{ program, pkg string }{{"ip", "iproute2"}, {"bridge", "iproute2"}} {
		if _, err := exec.LookPath(tool.program); err != nil && (len(missing) == 0 || missing[len(missing)-1] != tool.pkg) {
			missing = append(missing, tool.pkg)
		}
	}
	return missing
}

// New makes an empty lab. Namespaces and processes that a dead lab with the same label left behind are removed first.
// The caller must Close it. Without root or with missing packages the error says what to do.
func New(ctx context.Context, config Config) (*Lab, error) {
	if !prefixPattern.MatchString(config.Prefix) {
		return nil, fmt.Errorf("network lab prefix %q: want one to eight lower-case letters and digits, a letter first", config.Prefix)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("a network lab needs root to make network namespaces: run this as root")
	}
	if missing := Missing(); missing != nil {
		return nil, fmt.Errorf("a network lab needs programs that are not installed: run apt-get install %s", strings.Join(missing, " "))
	}
	if config.Log == nil {
		config.Log = func(string, ...any) {}
	}
	owner, label, err := claim(config.Prefix)
	if err != nil {
		return nil, err
	}
	l := &Lab{label: label, log: config.Log, owner: owner, names: map[string]bool{switchName: true}}
	if err := l.removeNamespaces(); err != nil {
		owner.Close()
		return nil, fmt.Errorf("remove what a dead lab %s left behind: %w", label, err)
	}
	l.spawner = proc.NewSpawner()
	if err := l.makeSwitch(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("network lab %s: %w", label, err), l.Close())
	}
	return l, nil
}

// claim takes the first free label of prefix. The claim is an abstract unix socket: the kernel drops it at the moment its
// owner dies, however it dies, and it leaves no file.
func claim(prefix string) (net.Listener, string, error) {
	for n := 1; n <= maxLabels; n++ {
		label := prefix
		if n > 1 {
			label += strconv.Itoa(n)
		}
		owner, err := net.Listen("unix", "@ltsp-testnet/"+label)
		if err == nil {
			return owner, label, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, "", fmt.Errorf("claim network lab %s: %w", label, err)
		}
	}
	return nil, "", fmt.Errorf("claim network lab %s: %d labs with this prefix are running", prefix, maxLabels)
}

func (l *Lab) makeSwitch(ctx context.Context) error {
	if err := l.ip(ctx, "netns", "add", l.namespace(switchName)); err != nil {
		return err
	}
	// The switch has no address of its own and must not speak: no router solicitations, no multicast reports.
	return inNamespace(l.namespace(switchName), func() error {
		return sysctl("net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	})
}

// Label is the prefix of this lab, with a number appended when another live lab has taken the prefix itself.
func (l *Lab) Label() string { return l.label }

// SwitchNamespace is the name of the namespace that holds all bridges and taps; virtual machines are started in it.
func (l *Lab) SwitchNamespace() string { return l.namespace(switchName) }

func (l *Lab) namespace(name string) string { return l.label + "-" + name }

// Close ends all captures, relays and processes (SIGKILL, whoever started them) and removes all namespaces. It may be called
// twice.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	closers := l.closers
	l.mu.Unlock()
	for _, end := range slices.Backward(closers) {
		end()
	}
	err := l.removeNamespaces()
	l.spawner.Close()
	l.owner.Close()
	if err != nil {
		return fmt.Errorf("close network lab %s: %w", l.label, err)
	}
	return nil
}

// onClose registers f for Close; it reports false, and does not register, when the lab is closed already.
func (l *Lab) onClose(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.closers = append(l.closers, f)
	return true
}

// reserve takes a name for a bridge, tap or host; what belongs in the error.
func (l *Lab) reserve(what, name string, pattern *regexp.Regexp) error {
	if !pattern.MatchString(name) {
		return fmt.Errorf("%s name %q does not match %s", what, name, pattern)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("%s %s: network lab %s is closed", what, name, l.label)
	}
	if l.names[name] {
		return fmt.Errorf("%s %s: the name is taken in network lab %s", what, name, l.label)
	}
	l.names[name] = true
	return nil
}

// removeNamespaces kills every process in the namespaces of this label and deletes them.
func (l *Lab) removeNamespaces() error {
	entries, err := os.ReadDir(namespaceDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), l.label+"-") {
			errs = append(errs, l.removeNamespace(entry.Name()))
		}
	}
	return errors.Join(errs...)
}

func (l *Lab) removeNamespace(namespace string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	if err := killNamespace(ctx, filepath.Join(namespaceDir, namespace)); err != nil {
		return err
	}
	return l.ip(ctx, "netns", "del", namespace)
}

// ip runs one ip(8) command in the namespace of the machine.
func (l *Lab) ip(ctx context.Context, args ...string) error { return command(ctx, "ip", args...) }

// command runs a program that prints nothing unless it fails.
func command(ctx context.Context, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if output, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}
