package satellite

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/clients"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/dhcp"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream"
)

func TestClientReport(t *testing.T) {
	changed := time.Unix(1_800_000_000, 0)
	in := clients.Snapshot{MAC: "52:54:00:00:00:01", UUID: "u", Addr: netip.MustParseAddr("10.0.0.5"), State: clients.Degraded, Reasons: []string{"nbd"}, Changed: changed,
		Firmware: "BIOS", Agent: "v1", Timeline: []clients.Step{{Name: "kernel", At: time.Second, Source: clients.FromClient}},
		Report: &agentproto.Report{Image: "lab", Number: 3, Digest: "0102", Hostname: "pc1", Kernel: "6.1", Memory: agentproto.Memory{TotalBytes: 4, AvailableBytes: 3},
			Overlay: agentproto.Fill{SizeBytes: 2, UsedBytes: 1}, Load1: 0.5, Uptime: agentproto.Duration(time.Minute), Link: agentproto.Link{Name: "eth0", SpeedMbps: -1},
			NBD: agentproto.NBD{Connected: true, Reconnects: 2}, Failed: []string{"cups.service"},
			Policy:   &agentproto.PolicyReport{State: "0a", Pending: []string{"p"}, Errors: []string{"e"}, Took: agentproto.Duration(time.Second)},
			Sessions: []agentproto.Session{{Kind: "login", User: "anna", Since: changed}}}}
	want := upstream.ClientReport{MAC: in.MAC, UUID: "u", Time: changed, State: "degraded", Reasons: []string{"nbd"}, Image: "lab", Number: 3, Digest: []byte{1, 2},
		Hostname: "pc1", Address: "10.0.0.5", Satellite: "sat1", Timeline: []upstream.BootStep{{Name: "kernel", At: time.Second, Source: "client"}},
		MemoryTotalBytes: 4, MemoryAvailableBytes: 3, OverlaySizeBytes: 2, OverlayUsedBytes: 1, Load1: 0.5, Uptime: time.Minute, LinkName: "eth0",
		NBDConnected: true, NBDReconnects: 2, FailedUnits: []string{"cups.service"}, Kernel: "6.1", Firmware: "BIOS", AgentBuild: "v1",
		Policy: []byte{10}, PolicyPending: []string{"p"}, PolicyErrors: []string{"e"}, PolicyTook: time.Second,
		Sessions: []upstream.ClientSession{{Kind: "login", User: "anna", Since: changed}}}
	if diff := cmp.Diff(want, clientReport(&in, "sat1")); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	in.Report, in.Addr = nil, netip.Addr{}
	if got := clientReport(&in, "sat1"); got.Address != "" || got.Image != "" {
		t.Errorf("report without a report: %+v", got)
	}
}

func TestDHCPStepsReachTheTimeline(t *testing.T) {
	r, err := clients.New(clients.Config{})
	if err != nil {
		t.Fatal(err)
	}
	saw := sawDHCP(r)
	mac, err := lease.ParseMAC("52:54:00:00:00:01")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr("10.0.0.5")
	for _, e := range []dhcp.Event{
		{Kind: dhcp.EventDiscover, Stage: dhcp.StageFirmware, MAC: mac, Arch: dhcp.ArchEFI64, UUID: "u"},
		{Kind: dhcp.EventOffer, Stage: dhcp.StageFirmware, MAC: mac, Addr: addr, Arch: dhcp.ArchEFI64},
		{Kind: dhcp.EventNak, Stage: dhcp.StageFirmware, MAC: mac},
		{Kind: dhcp.EventAck, Stage: dhcp.StageFirmware, MAC: mac, Addr: addr, Arch: dhcp.ArchEFI64},
		{Kind: dhcp.EventAck, Stage: dhcp.StageSystem, MAC: mac, Addr: addr},
		{Kind: dhcp.EventDiscover, Stage: dhcp.StageFirmware}, // a client without a MAC
	} {
		saw(e)
	}
	if n := len(r.List()); n != 1 {
		t.Fatalf("%d clients, want 1", n)
	}
	c, ok := r.Get(mac.String())
	if !ok || c.Firmware != "UEFI PXE" || c.Addr != addr || c.UUID != "u" {
		t.Errorf("client is %+v", c)
	}
	var steps []string
	for _, s := range c.Timeline {
		steps = append(steps, s.Name)
	}
	if diff := cmp.Diff([]string{clients.StepDiscover, clients.StepOffer, clients.StepAck}, steps); diff != "" {
		t.Errorf("timeline (-want +got):\n%s", diff)
	}
}

func TestReservationsAreUnique(t *testing.T) {
	a1, a2 := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.0.0.6")
	got := reservations(&config.Desired{Clients: []config.Client{
		{MAC: "52:54:00:00:00:01", Name: "pc1", Address: a1},
		{MAC: "52:54:00:00:00:01", Name: "again", Address: a2},
		{MAC: "52:54:00:00:00:02", Name: "thief", Address: a1},
		{MAC: "52:54:00:00:00:03", Name: "floating"},
		{MAC: "nonsense", Address: a2},
	}})
	mac, err := lease.ParseMAC("52:54:00:00:00:01")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]lease.Reservation{{MAC: mac, Addr: a1, Hostname: "pc1"}}, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("reservations (-want +got):\n%s", diff)
	}
}

func TestPeerAddress(t *testing.T) {
	subnets := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	tests := []struct {
		addrs []string
		want  string
	}{
		{[]string{"192.168.0.1/24", "10.1.0.9/16"}, "10.1.0.9"},
		{[]string{"127.0.0.1/8", "fd00::1/64", "192.168.0.1/24"}, "192.168.0.1"},
		{[]string{"127.0.0.1/8", "fe80::1/64"}, ""},
		{nil, ""},
	}
	for _, tt := range tests {
		var addrs []netip.Prefix
		for _, a := range tt.addrs {
			addrs = append(addrs, netip.MustParsePrefix(a))
		}
		got, ok := peerAddress(addrs, subnets)
		if ok != (tt.want != "") || ok && got.String() != tt.want {
			t.Errorf("%v: %s, want %s", tt.addrs, got, tt.want)
		}
	}
}

func TestRangeSize(t *testing.T) {
	for _, tt := range []struct {
		first, last string
		want        uint32
	}{{"10.0.0.1", "10.0.0.1", 1}, {"10.0.0.250", "10.0.1.5", 12}, {"10.0.0.9", "10.0.0.1", 0}} {
		s := config.Subnet{RangeStart: netip.MustParseAddr(tt.first), RangeEnd: netip.MustParseAddr(tt.last)}
		if got := rangeSize(s); got != tt.want {
			t.Errorf("%s to %s: %d, want %d", tt.first, tt.last, got, tt.want)
		}
	}
	if got := rangeSize(config.Subnet{}); got != 0 {
		t.Errorf("no range: %d", got)
	}
}
