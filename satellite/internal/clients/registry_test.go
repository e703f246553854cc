package clients

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const pc = "52:54:00:67:00:10"

var addr = netip.MustParseAddr("192.168.67.20")

func newRegistry(t *testing.T, change func(*Config)) *Registry {
	t.Helper()
	cfg := Config{}
	if change != nil {
		change(&cfg)
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// walk lets the time pass and tells the registry of steps: "SECONDS STEP", "again" for a script that asks again.
func walk(r *Registry, steps ...string) {
	for _, s := range steps {
		var wait float64
		var step string
		if _, err := fmt.Sscan(s, &wait, &step); err != nil {
			panic(err)
		}
		time.Sleep(time.Duration(wait * float64(time.Second)))
		sighting := Sighting{MAC: pc, Addr: addr, Step: step}
		if step == "again" {
			sighting.Step, sighting.Again = StepScript, true
		}
		r.Saw(sighting)
	}
}

func report(t *testing.T, r *Registry, state string, uptime time.Duration, steps ...agentproto.Step) {
	t.Helper()
	err := r.Report(pc, addr, agentproto.Report{State: state, Uptime: agentproto.Duration(uptime), Timeline: steps})
	if err != nil {
		t.Fatal(err)
	}
}

func step(name string, at time.Duration) agentproto.Step {
	return agentproto.Step{Name: name, At: agentproto.Duration(at)}
}

// lines writes a timeline as "SECONDS NAME SOURCE".
func lines(steps []Step) []string {
	var out []string
	for _, s := range steps {
		out = append(out, fmt.Sprintf("%.1f %s %s", s.At.Seconds(), s.Name, s.Source))
	}
	return out
}

func get(t *testing.T, r *Registry) Snapshot {
	t.Helper()
	s, ok := r.Get(pc)
	if !ok {
		t.Fatal("the client is not known")
	}
	return s
}

func TestTimelineOfBothSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, nil)
		walk(r, "0 dhcp-discover", "0.5 dhcp-offer", "0.5 dhcp-ack", "1 loader", "2 dhcp-discover", "0.1 dhcp-offer", "0.1 dhcp-ack",
			"0.1 script", "0.7 kernel-sent", "0.1 config-sent", "0.9 initrd-sent", "5 nbd-connect")
		time.Sleep(time.Second)
		// The kernel says that it runs for 4 s: it started 8 s after the first packet, 2 s after its initrd had been sent.
		report(t, r, "booting", 4*time.Second, step("kernel", 0), step("agent", time.Second), step("nbd", 3*time.Second))
		time.Sleep(8 * time.Second)
		report(t, r, "healthy", 11*time.Second, step("kernel", 0), step("agent", time.Second), step("healthy", 11*time.Second))
		want := []string{
			"0.0 dhcp-discover satellite", "0.5 dhcp-offer satellite", "1.0 dhcp-ack satellite", "2.0 loader satellite",
			"4.0 ipxe-discover satellite", "4.1 ipxe-offer satellite", "4.2 ipxe-ack satellite", "4.3 script satellite",
			"5.0 kernel-sent satellite", "5.1 config-sent satellite", "6.0 initrd-sent satellite",
			"8.0 kernel client", "9.0 agent client", "11.0 nbd-connect satellite", "19.0 healthy client",
		}
		s := get(t, r)
		if diff := cmp.Diff(want, lines(s.Timeline)); diff != "" {
			t.Errorf("timeline (-want +got):\n%s", diff)
		}
		if s.State != Healthy || s.Addr != addr || s.Report == nil || s.Report.Timeline != nil {
			t.Errorf("snapshot %+v", s)
		}
	})
}

func TestKernelStart(t *testing.T) {
	tests := []struct {
		name   string
		report func(t *testing.T, r *Registry) // 10 s after the initrd was sent at 1 s
		want   string
	}{
		{"uptime", func(t *testing.T, r *Registry) { report(t, r, "booting", 9*time.Second, step("kernel", 0)) }, "2.0"},
		{"the least late report counts", func(t *testing.T, r *Registry) {
			report(t, r, "booting", 7*time.Second, step("kernel", 0))
			report(t, r, "booting", 9500*time.Millisecond)
			report(t, r, "booting", 8*time.Second)
		}, "1.5"},
		{"no uptime", func(t *testing.T, r *Registry) { report(t, r, "booting", 0, step("kernel", 0)) }, "1.0"},
		{"not before the initrd", func(t *testing.T, r *Registry) { report(t, r, "booting", 10500*time.Millisecond, step("kernel", 0)) }, "1.0"},
		{"an older kernel", func(t *testing.T, r *Registry) { report(t, r, "booting", time.Hour, step("kernel", 0)) }, "1.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, nil)
				walk(r, "0 script", "1 initrd-sent")
				time.Sleep(10 * time.Second)
				tt.report(t, r)
				if got := lines(get(t, r).Timeline); !slices.Contains(got, tt.want+" kernel client") {
					t.Errorf("timeline %q, want the kernel at %s", got, tt.want)
				}
			})
		})
	}
}

func TestNewBoot(t *testing.T) {
	tests := []struct {
		name  string
		steps []string
		agent bool // a report comes before the last step
		boots int
	}{
		{"retransmitted discover", []string{"0 dhcp-discover", "4 dhcp-discover", "8 dhcp-discover"}, false, 1},
		{"firmware tries the next protocol", []string{"0 dhcp-discover", "30 dhcp-discover"}, false, 1},
		{"long after", []string{"0 dhcp-discover", "61 dhcp-discover"}, false, 2},
		{"iPXE after its loader", []string{"0 dhcp-discover", "1 loader", "1 dhcp-discover", "0 script"}, false, 1},
		{"reset while the script waits", []string{"0 dhcp-discover", "1 script", "5 dhcp-discover"}, false, 2},
		{"script asks again", []string{"0 script", "10 again", "10 again", "600 again", "1 kernel-sent"}, false, 1},
		{"script again after a failed kernel", []string{"0 script", "1 kernel-sent", "10 again"}, false, 1},
		{"asks again though nothing was seen", []string{"0 again"}, false, 1},
		{"foreign DHCP: script only", []string{"0 script", "1 kernel-sent", "1 initrd-sent", "5 script"}, false, 2},
		{"script fetched twice", []string{"0 script", "1 script"}, false, 1},
		{"script long after the last", []string{"0 script", "61 script"}, false, 2},
		{"restart of a running PC", []string{"0 script", "1 kernel-sent", "3600 dhcp-discover"}, true, 2},
		{"renewal by the running PC", []string{"0 script", "1 kernel-sent", "3600 dhcp-ack"}, true, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := prometheus.NewRegistry()
				r := newRegistry(t, func(c *Config) { c.Metrics = reg })
				n := len(tt.steps) - 1
				walk(r, tt.steps[:n]...)
				if tt.agent {
					report(t, r, "healthy", 0)
				}
				walk(r, tt.steps[n])
				want := fmt.Sprintf("# HELP %[1]s Boots that began.\n# TYPE %[1]s counter\n%[1]s %[2]d\n", "ltsp_satellite_client_boots_total", tt.boots)
				if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "ltsp_satellite_client_boots_total"); err != nil {
					t.Error(err)
				}
				if tt.boots == 2 && (get(t, r).State != Booting || len(get(t, r).Timeline) != 1) {
					t.Errorf("the new boot begins with %+v", get(t, r))
				}
			})
		})
	}
}

func TestStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, nil)
		want := func(s State, reason string) {
			t.Helper()
			got := get(t, r)
			if got.State != s || !strings.Contains(strings.Join(got.Reasons, "\n"), reason) {
				t.Errorf("state %s %q, want %s %q", got.State, got.Reasons, s, reason)
			}
		}
		walk(r, "0 script")
		want(Booting, "")
		time.Sleep(DefaultBootTimeout + time.Second)
		r.Sweep()
		want(Lost, "no sign of life after script")
		walk(r, "0 kernel-sent")
		want(Booting, "")
		r.Failure(pc, addr, agentproto.Failure{Stage: "nbd", Error: "no \x1b[31mserver\nanswers", Advice: "look at the cable"})
		want(Failed, "nbd: no  [31mserver answers\nlook at the cable")
		time.Sleep(time.Hour)
		r.Sweep()
		want(Failed, "nbd")
		report(t, r, "starting", 0)
		want(Starting, "")
		if err := r.Report(pc, addr, agentproto.Report{State: "degraded", Reasons: []string{"overlay 91 % full"}}); err != nil {
			t.Fatal(err)
		}
		want(Degraded, "overlay")
		time.Sleep(34 * time.Second)
		r.Sweep()
		want(Degraded, "overlay")
		time.Sleep(2 * time.Second)
		r.Sweep()
		want(Lost, "no report since")
		report(t, r, "healthy", 0)
		want(Healthy, "")
		if err := r.Report(pc, addr, agentproto.Report{State: "lost"}); !errors.Is(err, ErrReport) {
			t.Errorf("a report of state lost: %v, want ErrReport", err)
		}
	})
}

func TestRunFindsLostClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, nil)
		report(t, r, "healthy", 0)
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- r.Run(ctx) }()
		time.Sleep(time.Minute)
		if s := get(t, r).State; s != Lost {
			t.Errorf("state %s, want lost", s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestLookUpByAddress(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, nil)
	r.Saw(Sighting{Addr: addr, Step: StepKernel})
	if n := len(r.List()); n != 0 {
		t.Fatalf("%d clients after a sighting of nobody", n)
	}
	r.Saw(Sighting{MAC: pc, Addr: addr})
	if n := len(r.List()); n != 0 {
		t.Fatalf("%d clients after DHCP of a machine that does not boot from here", n)
	}
	r.Saw(Sighting{MAC: pc, Addr: addr, Step: StepDiscover, Firmware: "UEFI PXE"})
	r.Saw(Sighting{MAC: pc, Addr: addr, Step: StepScript, UUID: "u", Firmware: "UEFI"})
	r.Saw(Sighting{Addr: netip.MustParseAddr("::ffff:192.168.67.20"), Step: StepKernel})
	if got := get(t, r); len(got.Timeline) != 3 || got.UUID != "u" || got.Firmware != "UEFI PXE" {
		t.Errorf("snapshot %+v", got)
	}
	other := "52:54:00:67:00:11"
	r.Saw(Sighting{MAC: other, Addr: addr, Step: StepScript})
	if got := r.MACOf(addr); got != other {
		t.Errorf("the address belongs to %s, want its last user", got)
	}
	r.Saw(Sighting{MAC: pc, Addr: netip.MustParseAddr("192.168.67.21")})
	if got := r.MACOf(addr); got != other {
		t.Errorf("the address belongs to %q after its former user got another", got)
	}
}

func TestBoundAndOrderOfDropping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		r := newRegistry(t, func(c *Config) { c.MaxClients = 3; c.Metrics = reg })
		report(t, r, "healthy", 0)
		for i := range 5 {
			time.Sleep(time.Second)
			r.Saw(Sighting{MAC: fmt.Sprintf("52:54:00:00:00:%02x", i), Step: StepScript})
		}
		var got []string
		for _, s := range r.List() {
			got = append(got, s.MAC)
		}
		if diff := cmp.Diff([]string{"52:54:00:00:00:03", "52:54:00:00:00:04", pc}, got); diff != "" {
			t.Errorf("clients (-want +got):\n%s", diff)
		}
		for i := range 100 {
			r.Saw(Sighting{MAC: fmt.Sprintf("52:54:00:00:01:%02x", i), Step: StepScript})
		}
		if n := len(r.queue); n > 6 {
			t.Errorf("the queue of changes holds %d entries for 3 clients", n)
		}
		if got := len(r.Pending()); got != 3 {
			t.Errorf("%d pending, want the 3 clients that are left", got)
		}
		if n := testutil.ToFloat64(r.metrics.dropped); n != 103 {
			t.Errorf("%v dropped, want 103", n)
		}
	})
}

func TestPendingCoalesces(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, nil)
	for range 3 {
		for i := range MaxPending + 100 {
			r.Saw(Sighting{MAC: fmt.Sprintf("52:54:00:00:%02x:%02x", i/256, i%256), Step: StepScript, UUID: "x"})
		}
	}
	r.Saw(Sighting{MAC: "52:54:00:00:00:00", Step: StepKernel})
	<-r.Notify()
	first, second, third := r.Pending(), r.Pending(), r.Pending()
	if len(first) != MaxPending || len(second) != 100 || len(third) != 0 {
		t.Errorf("%d, %d, %d snapshots", len(first), len(second), len(third))
	}
	if len(first[0].Timeline) != 2 {
		t.Errorf("the first snapshot has %v, want the latest state", first[0].Timeline)
	}
	<-r.Notify()
	select {
	case <-r.Notify():
		t.Error("a notice though nothing is pending")
	default:
	}
	r.MarkAll()
	if n := len(r.Pending()); n != MaxPending {
		t.Errorf("%d after MarkAll", n)
	}
}

func TestAgentFromAnotherSatellite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, nil)
		report(t, r, "healthy", 90*time.Second, step("kernel", 0), step("healthy", 20*time.Second))
		want := []string{"0.0 kernel client", "20.0 healthy client"}
		if diff := cmp.Diff(want, lines(get(t, r).Timeline)); diff != "" {
			t.Errorf("timeline (-want +got):\n%s", diff)
		}
	})
}

func TestReportsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, nil)
	long := strings.Repeat("ä\x00", 10000)
	huge := agentproto.Report{State: "degraded", Hostname: long, Load1: -1, Uptime: -5, Lease: &agentproto.Lease{Server: long}}
	for range 1000 {
		huge.Reasons = append(huge.Reasons, long)
		huge.Failed = append(huge.Failed, long)
		huge.Timeline = append(huge.Timeline, step(long, -1))
	}
	if err := r.Report(pc, addr, huge); err != nil {
		t.Fatal(err)
	}
	s := get(t, r)
	if len(s.Reasons) != maxReasons || len(s.Reasons[0]) > maxReason || len(s.Report.Failed) != maxUnits || len(s.Timeline) != maxSteps ||
		len(s.Report.Hostname) > maxName || len(s.Timeline[0].Name) > maxName || s.Report.Load1 != 0 || s.Report.Uptime != 0 || len(s.Report.Lease.Server) > maxName {
		t.Errorf("kept more than the bounds allow: %d reasons, %d units, %d steps", len(s.Reasons), len(s.Report.Failed), len(s.Timeline))
	}
	if strings.ContainsRune(s.Report.Hostname, 0) || !strings.HasPrefix(s.Report.Hostname, "ä ") {
		t.Errorf("host name %q", s.Report.Hostname)
	}
}

func TestMetricsAreThoseOfTheDocumentation(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	r := newRegistry(t, func(c *Config) { c.Metrics = reg })
	r.Saw(Sighting{MAC: pc, Step: StepScript})
	want := []string{"ltsp_satellite_client_boot_duration_seconds", "ltsp_satellite_client_boots_total", "ltsp_satellite_clients", "ltsp_satellite_clients_dropped_total"}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		got = append(got, f.GetName())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, func(c *Config) { c.MaxClients = 50; c.Store = &memStore{data: make(map[string][]byte)} })
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 300 {
				mac := fmt.Sprintf("52:54:00:00:00:%02x", (g*31+i)%80)
				r.Saw(Sighting{MAC: mac, Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Step: StepScript})
				_ = r.Report(mac, addr, agentproto.Report{State: "healthy"})
				_, _ = r.IssueToken(mac)
				r.Pending()
				r.Sweep()
				if i%50 == 0 {
					r.save()
				}
			}
		})
	}
	wg.Wait()
	if n := len(r.List()); n != 50 {
		t.Errorf("%d clients, want the limit", n)
	}
}
