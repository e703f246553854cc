package resident

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	manyUnits := make([]string, 40)
	for i := range manyUnits {
		manyUnits[i] = fmt.Sprintf("u%d.service", i)
	}
	tests := []struct {
		name    string
		change  func(*Facts)
		state   string
		reasons []string
	}{
		{"all well", func(*Facts) {}, Healthy, nil},
		{"systemd not asked yet", func(f *Facts) { f.System = System{} }, Starting, nil},
		{"systemd does not answer while starting", func(f *Facts) { f.System = System{Err: "timeout"} }, Starting, []string{"systemd does not answer: timeout"}},
		{"initializing", func(f *Facts) { f.System.State = "initializing" }, Starting, nil},
		{"starting, waits for a mount", func(f *Facts) { f.System = System{State: "starting", Jobs: []string{"home.mount"}} },
			Starting, []string{"waiting for home.mount"}},
		{"starting, waits for many", func(f *Facts) { f.System = System{State: "starting", Jobs: manyUnits[:8]} },
			Starting, []string{"waiting for u0.service, u1.service, u2.service, u3.service, u4.service and 3 more"}},
		{"starting without a connection", func(f *Facts) { f.System.State, f.Keeper.Connected = "starting", false },
			Starting, []string{"no connection to a satellite for 1m30s"}},
		{"failed unit", func(f *Facts) { f.System = System{State: "degraded", Failed: []string{"cups.service"}} },
			Degraded, []string{"failed unit cups.service"}},
		{"degraded without a name", func(f *Facts) { f.System.State = "degraded" }, Degraded, []string{"systemd is degraded"}},
		{"maintenance", func(f *Facts) { f.System.State = "maintenance" }, Degraded, []string{"systemd is in state maintenance"}},
		{"shutting down", func(f *Facts) { f.System.State = "stopping" }, Healthy, nil},
		{"a word from the future", func(f *Facts) { f.System.State = "excellent" }, Degraded, []string{"systemd is in state excellent"}},
		{"no connection", func(f *Facts) { f.Keeper.Connected = false }, Degraded, []string{"no connection to a satellite for 1m30s"}},
		{"no connection, with a reason", func(f *Facts) { f.Keeper.Connected, f.Keeper.Error = false, "refused" },
			Degraded, []string{"no connection to a satellite for 1m30s: refused"}},
		{"image in memory", func(f *Facts) { f.InRAM, f.Keeper, f.KeeperRuns = true, nil, false }, Healthy, nil},
		{"no policy", func(f *Facts) { f.NoPolicy = "booted without a policy: away" }, Degraded, []string{"booted without a policy: away"}},
		{"keeper died", func(f *Facts) { f.KeeperRuns = false }, Degraded,
			[]string{"the keeper of the root connection does not run: the PC stops when its satellite does"}},
		{"keeper never ran", func(f *Facts) { f.Keeper = nil }, Degraded,
			[]string{"the keeper of the root connection does not run: the PC stops when its satellite does"}},
		{"writable layer at 90 %", func(f *Facts) { f.Overlay.UsedBytes = 900 }, Healthy, nil},
		{"writable layer above 90 %", func(f *Facts) { f.Overlay.UsedBytes = 950 }, Degraded, []string{"the writable layer is 95 % full"}},
		{"no writable layer known", func(f *Facts) { f.Overlay = agentproto.Fill{} }, Healthy, nil},
		{"lease", func(f *Facts) { f.LeaseProblem = "lease lost" }, Degraded, []string{"lease lost"}},
		{"several", func(f *Facts) {
			f.LeaseProblem, f.Keeper.Connected = "lease lost", false
			f.System = System{State: "degraded", Failed: []string{"a", "b"}}
		}, Degraded, []string{"no connection to a satellite for 1m30s", "lease lost", "failed unit a", "failed unit b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := Facts{
				System: System{State: "running"}, KeeperRuns: true, Now: now, Overlay: agentproto.Fill{SizeBytes: 1000, UsedBytes: 10},
				Keeper: &rundir.KeeperState{Connected: true, Since: now.Add(-90 * time.Second)},
			}
			tt.change(&f)
			state, reasons := Judge(f)
			if state != tt.state {
				t.Errorf("state %s, want %s", state, tt.state)
			}
			if diff := cmp.Diff(tt.reasons, reasons); diff != "" {
				t.Error(diff)
			}
		})
	}
	_, reasons := Judge(Facts{System: System{State: "degraded", Failed: manyUnits}, KeeperRuns: true, Keeper: &rundir.KeeperState{Connected: true}})
	if len(reasons) != maxFailed {
		t.Errorf("%d reasons, want at most %d", len(reasons), maxFailed)
	}
}

func TestClipReasons(t *testing.T) {
	t.Parallel()
	long := make([]string, 200)
	for i := range long {
		long[i] = strings.Repeat("ä", 400)
	}
	got := clipReasons(long)
	if len(got) != reasonsMaxLen || len(got[0]) > reasonMaxLen || !strings.HasPrefix(long[0], "ä") {
		t.Errorf("%d reasons of %d bytes", len(got), len(got[0]))
	}
}
