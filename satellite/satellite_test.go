package satellite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/telemetry"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/health"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore/versiontest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/state/identity"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream/fakecontroller"
)

// patience bounds waits; it is reached only when something is broken.
const patience = 60 * time.Second

// box is a satellite of a test: its ports lie on 127.0.0.1, DHCP is off.
type box struct {
	t      *testing.T
	local  config.Local
	cancel context.CancelFunc
	done   chan error
}

func joined(t *testing.T, c *fakecontroller.Controller) *box {
	t.Helper()
	local := config.Default()
	local.DataDir = filepath.Join(t.TempDir(), "d")
	local.Metrics = ""
	local.ReserveBytes = 0
	freePorts(t, &local.NBDPort, &local.HTTPPort, &local.ReportPort, &local.GossipPort)
	if _, err := (upstream.Join{Controller: c.Addr, Token: c.Token("hill"), Name: "sat1", DataDir: local.DataDir}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &box{t: t, local: local}
}

// freePorts sets ports that nobody uses now, each another one.
func freePorts(t *testing.T, ports ...*uint16) {
	t.Helper()
	for _, p := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // after the last: else the same could come twice
		*p = uint16(l.Addr().(*net.TCPAddr).Port)
	}
}

func (b *box) start() {
	b.t.Helper()
	s, err := New(Config{Local: b.local, Build: "test", Registry: telemetry.NewRegistry()})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel, b.done = cancel, make(chan error, 1)
	go func() { b.done <- s.Run(ctx) }()
	b.t.Cleanup(b.stop)
}

func (b *box) stop() {
	b.t.Helper()
	if b.cancel == nil {
		return
	}
	b.cancel()
	b.cancel = nil
	select {
	case err := <-b.done:
		if err != nil {
			b.t.Errorf("satellite ended with %v", err)
		}
	case <-time.After(patience):
		b.t.Fatal("satellite does not end")
	}
}

// until asks for the status until ok is satisfied.
func (b *box) until(what string, ok func(health.Status) bool) health.Status {
	b.t.Helper()
	return untilStatus(b.t, b.local.DataDir, what, ok)
}

func untilStatus(t *testing.T, dir, what string, ok func(health.Status) bool) health.Status {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := health.Query(t.Context(), dir)
		if err == nil && ok(s) {
			return s
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited for %s; the last status is %+v (%v)", what, s, err)
		}
	}
}

func verified(numbers ...uint64) func(health.Status) bool {
	return func(s health.Status) bool {
		if len(s.Versions) != len(numbers) {
			return false
		}
		for i, v := range s.Versions {
			if v.Number != numbers[i] || v.State != "verified" {
				return false
			}
		}
		return true
	}
}

// loopback is a subnet that every machine has an interface in.
func loopback(d *satellitev1.DesiredState) {
	d.Subnets = []*satellitev1.Subnet{{Name: "loop", Cidr: "127.0.0.0/8", Mode: satellitev1.DhcpMode_DHCP_MODE_OFF, LeaseTime: durationpb.New(time.Hour)}}
	d.Boot = &satellitev1.BootPolicy{Boot: "lab:stable"}
	d.GossipKey = bytes.Repeat([]byte{7}, 32)
	d.Peers = []*satellitev1.Peer{{Name: "sat1"}}
}

func (b *box) get(path string) (int, string) {
	b.t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", b.local.HTTPPort, path))
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, body.String()
}

func TestFromControllerToBootScript(t *testing.T) {
	c := fakecontroller.Start(t)
	v := versiontest.Image(t, c.Key, "lab", 1, 1, versiontest.Data(1, 700_000), 50_000)
	c.Want(loopback, v)
	b := joined(t, c)
	b.start()
	s := b.until("the version", verified(1))
	if !s.Connected || s.Site != "hill" || s.Satellite != "sat1" || len(s.Subnets) != 1 || s.Subnets[0].Interface != "lo" || s.Subnets[0].State != "off" {
		t.Errorf("status is %+v", s)
	}
	b.until("the cluster", func(s health.Status) bool {
		return len(s.Members) == 1 && s.Members[0].State == "alive" && len(s.Members[0].Versions) == 1 && s.Members[0].Versions[0] == v.Manifest.ExportName()
	})
	var code int
	var script string
	for deadline := time.Now().Add(patience); code != 200 && time.Now().Before(deadline); {
		code, script = b.get("/boot.ipxe?mac=52:54:00:00:00:01")
	}
	if code != 200 || !strings.Contains(script, v.ID.String()) {
		t.Errorf("boot script: %d\n%s", code, script)
	}
	if code, kernel := b.get("/boot/v/" + v.ID.String() + "/kernel"); code != 200 || kernel != string(v.Files[1].Data) {
		t.Errorf("kernel: %d, %d bytes", code, len(kernel))
	}
	if code, _ := b.get("/boot/v/" + v.ID.String() + "/squashfs"); code != 404 {
		t.Errorf("the root file system is served by HTTP: %d", code)
	}
	for r := range c.Reports {
		if len(r.GetVersions()) == 1 && r.GetVersions()[0].GetState() == satellitev1.VersionState_VERSION_STATE_VERIFIED {
			if r.GetVersions()[0].GetBytesFetched() == 0 || r.GetDiskSizeBytes() == 0 || len(r.GetAddresses()) == 0 || r.GetMemoryBytes() == 0 {
				t.Errorf("report is %v", r)
			}
			break
		}
	}
}

func TestRestartWithoutController(t *testing.T) {
	c := fakecontroller.Start(t)
	v := versiontest.Image(t, c.Key, "lab", 1, 1, versiontest.Data(1, 700_000), 50_000)
	c.Want(loopback, v)
	b := joined(t, c)
	b.start()
	b.until("the version", verified(1))
	b.stop()
	c.Stop()
	b.start()
	s := b.until("the version from the disk", verified(1))
	if s.Connected {
		t.Error("connected to a controller that is not there")
	}
	b.until("a word about the controller", func(s health.Status) bool {
		return strings.Contains(strings.Join(s.Problems, "\n"), "is not connected")
	})
	if code, script := b.get("/boot.ipxe?mac=52:54:00:00:00:01"); code != 200 || !strings.Contains(script, v.ID.String()) {
		t.Errorf("boot script: %d\n%s", code, script)
	}
}

func TestClientsGetTheFormerVersionUntilTheNewOneIsComplete(t *testing.T) {
	c := fakecontroller.Start(t)
	v1 := versiontest.Image(t, c.Key, "lab", 1, 1, versiontest.Data(1, 700_000), 50_000)
	v2 := versiontest.Image(t, c.Key, "lab", 2, 2, versiontest.Data(2, 700_000), 50_000)
	c.Want(loopback, v1)
	b := joined(t, c)
	b.start()
	b.until("version 1", verified(1))
	gate := make(chan struct{})
	c.Do(func(c *fakecontroller.Controller) { c.Gate = gate })
	c.Want(nil, v2)
	b.until("the start of version 2", func(s health.Status) bool { return len(s.Versions) == 1 && s.Versions[0].State == "fetching" })
	if code, script := b.get("/boot.ipxe?mac=52:54:00:00:00:01"); code != 200 || !strings.Contains(script, v1.ID.String()) {
		t.Errorf("script during the transfer: %d\n%s", code, script)
	}
	// The same after a restart in the middle.
	b.stop()
	b.start()
	b.until("version 1 after a restart", func(s health.Status) bool {
		code, script := b.get("/boot.ipxe?mac=52:54:00:00:00:01")
		return code == 200 && strings.Contains(script, v1.ID.String())
	})
	close(gate)
	b.until("version 2", verified(2))
	b.until("the script of version 2", func(health.Status) bool {
		_, script := b.get("/boot.ipxe?mac=52:54:00:00:00:01")
		return strings.Contains(script, v2.ID.String())
	})
	// Back: the former version is still on the disk.
	c.Do(func(c *fakecontroller.Controller) { c.FailFetch = 1_000_000 })
	c.Want(nil, v1)
	b.until("version 1 again, without a transfer", verified(1))
}

func TestPortTakenIsTold(t *testing.T) {
	c := fakecontroller.Start(t)
	c.Want(loopback)
	b := joined(t, c)
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", b.local.HTTPPort))
	if err != nil {
		t.Fatal(err)
	}
	b.start()
	want := fmt.Sprintf("port %d/tcp of 127.0.0.1 is taken by satellite.test (process %d)", b.local.HTTPPort, os.Getpid())
	b.until("the problem", func(s health.Status) bool { return strings.Contains(strings.Join(s.Problems, "\n"), want) })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b.until("the end of the problem", func(s health.Status) bool { return !strings.Contains(strings.Join(s.Problems, "\n"), want) })
}

func TestSubnetWithoutInterfaceIsTold(t *testing.T) {
	c := fakecontroller.Start(t)
	c.Want(func(d *satellitev1.DesiredState) {
		d.Subnets = []*satellitev1.Subnet{{Name: "far", Cidr: "203.0.113.0/24", Mode: satellitev1.DhcpMode_DHCP_MODE_AUTHORITATIVE,
			RangeStart: "203.0.113.10", RangeEnd: "203.0.113.20", DhcpSatellite: "sat1"}}
	})
	b := joined(t, c)
	b.start()
	s := b.until("the problem", func(s health.Status) bool {
		return strings.Contains(strings.Join(s.Problems, "\n"), "subnet far (203.0.113.0/24): no interface")
	})
	if len(s.Subnets) != 1 || s.Subnets[0].State != "no-interface" || s.Subnets[0].RangeSize != 11 {
		t.Errorf("subnets are %+v", s.Subnets)
	}
}

func TestNewRefuses(t *testing.T) {
	local := config.Default()
	local.DataDir = t.TempDir()
	if _, err := New(Config{Local: local}); !errors.Is(err, identity.ErrNotJoined) {
		t.Errorf("not joined: %v", err)
	}
	local.Streams = 99
	if _, err := New(Config{Local: local}); err == nil {
		t.Error("99 streams are accepted")
	}
}
