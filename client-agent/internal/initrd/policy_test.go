package initrd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/applet"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/cmdline"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/enforce"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nic"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

func TestFacts(t *testing.T) {
	t.Parallel()
	mac := net.HardwareAddr{0x52, 0x54, 0, 0x67, 0, 0x10}
	b := &boot{
		commandLine: "quiet ltsp.image=x", nic: nic.NIC{Name: "eth0", MAC: mac}, addr: netip.MustParsePrefix("192.168.67.20/24"), gateway: netip.MustParseAddr("192.168.67.1"),
		dns: []netip.Addr{netip.MustParseAddr("192.168.67.1")}, domain: "school.example", dhcpServer: "192.168.67.1", lease: time.Hour,
	}
	want := step.Facts{
		Device: "eth0", MAC: mac, Addr: b.addr, Gateway: b.gateway, DNS: b.dns, Domain: "school.example", DHCPServer: "192.168.67.1", Lease: time.Hour,
		CommandLine: "quiet ltsp.image=x",
	}
	for name, names := range map[string][]string{
		"":     {"", "bad name", "-x"},
		"pc07": {"", "pc07.school.example", "other"},
	} {
		b.names, want.Hostname = names, name
		if diff := cmp.Diff(want, b.facts(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Error(diff)
		}
	}
}

func TestWantsShell(t *testing.T) {
	t.Parallel()
	stop := func(shell bool) error {
		return fmt.Errorf("x: %w", &enforce.StopError{Applet: applet.Init, Failures: []applet.Failure{{Step: "POST", Name: "POST_INIT", Error: "exit status 1"}}, Shell: shell})
	}
	for _, tt := range []struct {
		line string
		err  error
		want bool
	}{
		{"", errors.New("x"), false}, {"", stop(false), false}, {"", stop(true), true},
		{"ltsp.debug-shell=1", errors.New("x"), true}, {"ltsp.debug-shell=0", stop(false), false},
	} {
		b := &boot{args: cmdline.Parse(tt.line)}
		if got := b.wantsShell(&failure{err: tt.err}); got != tt.want {
			t.Errorf("%q, %v: %v", tt.line, tt.err, got)
		}
	}
	if (&boot{}).findShell(true) == nil {
		t.Error("wanted, and this machine has one, but none is offered")
	}
}
