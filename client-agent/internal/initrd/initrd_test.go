package initrd

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/modules"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nbdclient"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nbdlink"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nic"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/uevent"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

var quiet = slog.New(slog.DiscardHandler)

func TestRunStages(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	ok := func(context.Context) error { return nil }
	tests := []struct {
		name   string
		second func(context.Context) error
		done   string
		stage  string
		text   string
		took   time.Duration
	}{
		{"all go well", ok, "one two three", "", "", 0},
		{"error", func(context.Context) error { return broken }, "one", "two", "broken", 0},
		{"panic", func(context.Context) error { return []error{}[len(os.Args)] }, "one", "two", "internal error: runtime error: index out of range", 0},
		{"gives a reason when its time is over", func(ctx context.Context) error { <-ctx.Done(); return broken }, "one", "two", "broken", time.Minute},
		{"hangs", func(context.Context) error { time.Sleep(time.Hour); return nil }, "one", "two", "nothing happened for 1m0s", time.Minute + grace},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			var done []string
			begin := time.Now()
			f := runStages(t.Context(), quiet, []stage{
				{"one", "", time.Minute, ok}, {"two", "advice", time.Minute, tt.second}, {"three", "", time.Minute, ok},
			}, func(name string) { done = append(done, name) })
			if strings.Join(done, " ") != tt.done {
				t.Errorf("%s: done %v", tt.name, done)
			}
			if took := time.Since(begin); took != tt.took {
				t.Errorf("%s: took %v, want %v", tt.name, took, tt.took)
			}
			switch {
			case tt.stage == "" && f != nil:
				t.Errorf("%s: failed with %v", tt.name, f.err)
			case tt.stage != "" && (f == nil || f.stage != tt.stage || f.advice != "advice" || !strings.Contains(f.err.Error(), tt.text)):
				t.Errorf("%s: got %+v", tt.name, f)
			}
			time.Sleep(2 * time.Hour) // the one that hangs ends
		})
	}
}

func TestStagesAreThoseOfTheTimeline(t *testing.T) {
	t.Parallel()
	var names []string
	for _, s := range new(boot).stages() {
		names = append(names, s.name)
		if s.limit <= 0 || s.advice == "" || s.run == nil {
			t.Errorf("stage %s is incomplete", s.name)
		}
	}
	if diff := cmp.Diff([]string{"start", "modules", "network", "nbd", "verity", "root", "policy", "switch"}, names); diff != "" {
		t.Error(diff)
	}
	b := &boot{}
	for _, name := range []string{"agent", "start", "modules"} {
		b.done(name)
	}
	if len(b.timeline) != 2 || b.timeline[1].Name != "modules" || b.timeline[1].At == 0 {
		t.Errorf("timeline %v", b.timeline)
	}
}

func TestClockIsBehind(t *testing.T) {
	t.Parallel()
	made := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	tests := []struct {
		system time.Time
		made   time.Time
		want   bool
	}{
		{time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), made, true},
		{made.Add(-2 * time.Hour), made, true}, // a clock in local time west of Greenwich
		{made.Add(-30 * time.Second), made, false},
		{made.Add(2 * time.Hour), made, false},
		{time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), time.Time{}, false},
	}
	for _, tt := range tests {
		if got := clockIsBehind(tt.system, tt.made); got != tt.want {
			t.Errorf("%v, %v: got %v", tt.system, tt.made, got)
		}
	}
}

func TestInInitrd(t *testing.T) {
	t.Parallel()
	for kind, want := range map[int64]bool{unix.RAMFS_MAGIC: true, unix.TMPFS_MAGIC: true, unix.EXT4_SUPER_MAGIC: false, unix.OVERLAYFS_SUPER_MAGIC: false} {
		if got := inInitrd(kind); got != want {
			t.Errorf("%#x: %v", kind, got)
		}
	}
}

func TestAnswerDevices(t *testing.T) {
	t.Parallel()
	// A PCI device whose driver makes a USB bus, whose driver makes a NIC.
	next := [][]string{{"pci:xhci", "pci:unknown"}, {"usb:hub"}, {"usb:nic"}, nil}
	var answered []string
	answerDevices(func(alias string) int {
		answered = append(answered, alias)
		if alias == "pci:unknown" {
			return 0
		}
		return 1
	}, func() []string {
		list := next[0]
		next = next[1:]
		return list
	})
	if diff := cmp.Diff([]string{"pci:xhci", "pci:unknown", "usb:hub", "usb:nic"}, answered); diff != "" {
		t.Error(diff)
	}
	rounds := 0
	answerDevices(func(string) int { return 1 }, func() []string { rounds++; return []string{"x"} })
	if rounds != maxRounds {
		t.Errorf("%d rounds on devices without end", rounds)
	}
}

// moduleSet is an initrd with some modules.
type moduleSet struct {
	has    map[string]error
	loaded []string
}

func (m *moduleSet) Load(name string) error {
	m.loaded = append(m.loaded, name)
	err, ok := m.has[name]
	if !ok {
		return modules.ErrNotFound
	}
	return err
}

func (m *moduleSet) Answer(alias string) int { m.loaded = append(m.loaded, alias); return 0 }

func TestLoadRoot(t *testing.T) {
	t.Parallel()
	refused := errors.New("key was rejected")
	all := map[string]error{"nbd": nil, "squashfs": nil, "overlay": nil, "dm-verity": nil}
	with := func(name string, err error) map[string]error {
		m := maps.Clone(all)
		if delete(m, name); err != nil {
			m[name] = err
		}
		return m
	}
	tests := []struct {
		name    string
		has     map[string]error
		verity  bool
		builtin string
		loaded  string
		err     error
	}{
		{"all", all, true, "", "crypto-sha256 nbd squashfs overlay dm-verity", nil},
		{"without verity", all, false, "", "nbd squashfs overlay", nil},
		{"squashfs built in", with("squashfs", nil), true, "squashfs", "crypto-sha256 nbd squashfs overlay dm-verity", nil},
		{"no nbd", with("nbd", nil), true, "", "crypto-sha256 nbd", modules.ErrNotFound},
		{"refused", with("overlay", refused), true, "overlay", "crypto-sha256 nbd squashfs overlay", refused},
	}
	for _, tt := range tests {
		m := &moduleSet{has: tt.has}
		err := loadRoot(m, tt.verity, func(name string) bool { return name == tt.builtin })
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.err)
		}
		if got := strings.Join(m.loaded, " "); got != tt.loaded {
			t.Errorf("%s: loaded %s", tt.name, got)
		}
	}
}

func TestNICWait(t *testing.T) {
	t.Parallel()
	type timed struct {
		at    time.Duration
		event uevent.Event
	}
	tests := []struct {
		name    string
		events  []timed
		appears time.Duration // when the NIC is there
		found   time.Duration // when it is found
		answers string
	}{
		{"there already", nil, 0, 0, ""},
		{"by its event", []timed{{2 * time.Second, uevent.Event{Subsystem: "usb", Modalias: "usb:a"}}, {2100 * time.Millisecond, uevent.Event{Subsystem: "net"}}},
			2100 * time.Millisecond, 2100 * time.Millisecond, "usb:a"},
		{"without an event", nil, 700 * time.Millisecond, time.Second, ""},
		{"other NICs come first", []timed{{100 * time.Millisecond, uevent.Event{Subsystem: "net"}}, {200 * time.Millisecond, uevent.Event{Subsystem: "net"}}},
			200 * time.Millisecond, 200 * time.Millisecond, ""},
		{"never", nil, time.Hour, -1, ""},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			var answers []string
			events := tt.events
			w := nicWait{
				find: func() (nic.NIC, error) {
					if time.Since(begin) < tt.appears {
						return nic.NIC{}, nic.ErrNotFound
					}
					return nic.NIC{Name: "eth0"}, nil
				},
				sweep:  func() {},
				answer: func(alias string) { answers = append(answers, alias) },
				next: func(deadline time.Time) (uevent.Event, error) {
					if len(events) > 0 && !begin.Add(events[0].at).After(deadline) {
						e := events[0]
						events = events[1:]
						time.Sleep(time.Until(begin.Add(e.at)))
						return e.event, nil
					}
					time.Sleep(time.Until(deadline))
					return uevent.Event{}, os.ErrDeadlineExceeded
				},
			}
			n, err := w.wait(nicTimeout)
			took := time.Since(begin)
			if tt.found < 0 {
				if !errors.Is(err, nic.ErrNotFound) || took < nicTimeout || took > nicTimeout+rescan {
					t.Errorf("%s: %v after %v", tt.name, err, took)
				}
				return
			}
			if err != nil || n.Name != "eth0" || took != tt.found || strings.Join(answers, " ") != tt.answers {
				t.Errorf("%s: found %v, %v after %v, answered %v", tt.name, n, err, took, answers)
			}
		})
	}
}

func TestChooseDNS(t *testing.T) {
	t.Parallel()
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	tests := []struct {
		name         string
		policy, line []string
		ip, dhcp     []netip.Addr
		want         string
	}{
		{"policy", []string{"10.0.0.9", "fd67::1"}, []string{"10.0.0.8"}, []netip.Addr{a}, []netip.Addr{b}, "10.0.0.9 fd67::1"},
		{"command line", nil, []string{"10.0.0.8", "garbage", "0.0.0.0"}, []netip.Addr{a}, nil, "10.0.0.8"},
		{"ip=", nil, []string{"garbage"}, []netip.Addr{a}, []netip.Addr{b}, "10.0.0.1"},
		{"DHCP", nil, nil, nil, []netip.Addr{b}, "10.0.0.2"},
		{"none", nil, nil, nil, nil, ""},
	}
	for _, tt := range tests {
		var got []string
		for _, addr := range chooseDNS(tt.policy, tt.line, tt.ip, tt.dhcp) {
			got = append(got, addr.String())
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}

func TestCleanDomain(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"school.example": "school.example", "school.example\x00": "school.example", "a\nnameserver 1.2.3.4": "", "a b": "",
		strings.Repeat("a", 254): "", "": "",
	} {
		if got := cleanDomain(in); got != want {
			t.Errorf("%q: got %q", in, got)
		}
	}
}

func TestDevice(t *testing.T) {
	t.Parallel()
	cfg := &agentproto.BootConfig{
		Export: "lab@d", Digest: "d", SizeBytes: 409600,
		Satellites: []agentproto.Satellite{{Addr: "192.168.67.1", NBDPort: 10809}, {Addr: "fd67::2", NBDPort: 10810}},
	}
	want := []nbdclient.Target{{Addr: "192.168.67.1:10809", Export: "lab@d", SizeBytes: 409600}, {Addr: "[fd67::2]:10810", Export: "lab@d", SizeBytes: 409600}}
	if diff := cmp.Diff(want, nbdTargets(cfg)); diff != "" {
		t.Error(diff)
	}
	d, err := nbdDevice(cfg, nbdclient.Info{SizeBytes: 409600, Flags: 3})
	if err != nil {
		t.Fatal(err)
	}
	device := nbdlink.Device{SizeBytes: 409600, BlockSize: 4096, Flags: 3, Backend: "d", Timeout: 5 * time.Second, DeadTimeout: 10 * time.Minute}
	if diff := cmp.Diff(device, d); diff != "" {
		t.Error(diff)
	}
	cfg.NBDTimeout, cfg.DeadTimeout = agentproto.Duration(time.Second), agentproto.Duration(time.Minute)
	if d, err := nbdDevice(cfg, nbdclient.Info{SizeBytes: 512}); err != nil || d.BlockSize != 512 || d.Timeout != time.Second || d.DeadTimeout != time.Minute {
		t.Errorf("got %+v, %v", d, err)
	}
}

func TestHello(t *testing.T) {
	t.Parallel()
	cfg := &agentproto.BootConfig{Token: "00112233445566778899aabbccddeeff"}
	for _, mac := range []net.HardwareAddr{nil, {0x52, 0x54, 0, 0x67, 0, 0x10}} {
		h := helloFor(cfg, mac)
		if err := h.Validate(); err != nil {
			t.Errorf("%v: %v", mac, err)
		}
	}
}
