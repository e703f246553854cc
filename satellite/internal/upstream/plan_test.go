package upstream_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore/versiontest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream/fakecontroller"
)

func TestPlanSync(t *testing.T) {
	c := fakecontroller.Start(t)
	s := start(t, join(t, c), nil)
	wait(t, "connection", s.online)
	want, base, sum := manifest.ID{1}, manifest.ID{2}, sha256.Sum256([]byte("delta"))
	made := time.Unix(1_800_000_000, 0).UTC()
	c.Do(func(c *fakecontroller.Controller) {
		c.Plans[want] = &satellitev1.PlanSyncResponse{
			Plan: &satellitev1.SyncPlan{Method: satellitev1.SyncMethod_SYNC_METHOD_DELTA, Reason: "cheapest", WireBytes: 1000, Expected: durationpb.New(8 * time.Second),
				BaseId: base[:], Made: timestamppb.New(made),
				Options: []*satellitev1.SyncOption{{Method: satellitev1.SyncMethod_SYNC_METHOD_WHOLE, WireBytes: 9000, Unavailable: "no room"}}},
			Delta: &satellitev1.DeltaFile{Sha256: sum[:], SizeBytes: 1000, IndexBytes: 100, FirstGroups: []uint32{3, 1}},
		}
	})
	q := config.PlanQuestion{Version: want, Have: make([]manifest.ID, 100), LinkRate: 5, RecompressRate: 6, Begun: sum, Failure: "why"}
	q.Have[0] = base
	got, err := s.PlanSync(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	plan := config.Plan{Method: config.ByDelta, Reason: "cheapest", WireBytes: 1000, Expected: 8 * time.Second, Base: base, Made: made,
		Options: []config.PlanOption{{Method: config.Whole, WireBytes: 9000, Unavailable: "no room"}},
		Delta:   config.Delta{Base: base, SHA256: sum, Size: 1000, IndexBytes: 100, First: []uint32{3, 1}}}
	if diff := cmp.Diff(plan, got); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	asked := wait(t, "question", c.Questions)
	if !bytes.Equal(asked.GetHave()[0], base[:]) || len(asked.GetHave()) != 64 || asked.GetLinkBytesPerSecond() != 5 || asked.GetRecompressBytesPerSecond() != 6 ||
		!bytes.Equal(asked.GetBegunSha256(), sum[:]) || asked.GetFailure() != "why" {
		t.Errorf("question is %v", asked)
	}
	c.Do(func(c *fakecontroller.Controller) { c.Plans[want].Delta.IndexBytes = 1001 })
	if _, err := s.PlanSync(t.Context(), q); err == nil || !strings.Contains(err.Error(), "unusable") {
		t.Errorf("index longer than the delta: %v", err)
	}
	c.Do(func(c *fakecontroller.Controller) { c.NoPlans = true })
	if got, err := s.PlanSync(t.Context(), q); err != nil || got.Method != config.ByChunks {
		t.Errorf("controller without plans: %+v, %v", got, err)
	}
	c.Stop()
	wait(t, "loss", s.online)
	if _, err := s.PlanSync(t.Context(), q); !errors.Is(err, upstream.ErrOffline) {
		t.Errorf("offline: %v", err)
	}
}

func TestFetchDelta(t *testing.T) {
	c := fakecontroller.Start(t)
	file := versiontest.Data(3, 700_000)
	d := &config.Delta{Base: manifest.ID{2}, SHA256: sha256.Sum256(file), Size: int64(len(file)), IndexBytes: 100}
	c.Do(func(c *fakecontroller.Controller) { c.Deltas[d.SHA256] = file })
	s := start(t, join(t, c), nil)
	wait(t, "connection", s.online)
	var got bytes.Buffer
	sink := func(p []byte) error { _, err := got.Write(p); return err }
	if err := s.FetchDelta(t.Context(), manifest.ID{1}, d, 1000, 600_000, true, sink); err != nil || !bytes.Equal(got.Bytes(), file[1000:601_000]) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	other := *d
	other.SHA256[0] ^= 1
	if err := s.FetchDelta(t.Context(), manifest.ID{1}, &other, 0, 10, false, sink); !errors.Is(err, upstream.ErrNotAssigned) {
		t.Errorf("unknown delta: %v", err)
	}
	for _, r := range [][2]int64{{-1, 5}, {0, 0}, {0, d.Size + 1}, {d.Size, 1}, {1 << 62, 1 << 62}} {
		if err := s.FetchDelta(t.Context(), manifest.ID{1}, d, r[0], r[1], false, sink); err == nil {
			t.Errorf("range %v was fetched", r)
		}
	}
	c.Do(func(c *fakecontroller.Controller) { c.Withhold = 1 })
	if err := s.FetchDelta(t.Context(), manifest.ID{1}, d, 0, 1000, false, sink); err == nil || !strings.Contains(err.Error(), "early") {
		t.Errorf("short answer: %v", err)
	}
	stop := errors.New("stop")
	if err := s.FetchDelta(t.Context(), manifest.ID{1}, d, 0, 1000, false, func([]byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error of deliver came back as %v", err)
	}
}

func TestTracesAndTransfers(t *testing.T) {
	c := fakecontroller.Start(t)
	traces := make(chan upstream.BootTrace, 1)
	traces <- upstream.BootTrace{ID: manifest.ID{7}, Ranges: []upstream.TraceRange{{Offset: 5, Length: 6}, {Offset: 1, Length: 2}}, Boots: 1}
	started := time.Unix(1_800_000_000, 0).UTC()
	s := start(t, join(t, c), func(cfg *upstream.Config) {
		cfg.Traces = traces
		cfg.Status = func() upstream.Status {
			return upstream.Status{Versions: []upstream.VersionStatus{{Image: "lab", Number: 2, ID: manifest.ID{7}, State: upstream.VersionServing, Behind: "slow", Started: started,
				Plan: config.Plan{Method: config.ByDelta, Reason: "cheapest", Base: manifest.ID{6}, WireBytes: 9}}}}
		}
	})
	wait(t, "connection", s.online)
	id := manifest.ID{7}
	want := &satellitev1.BootTrace{Id: id[:], Boots: 1, Ranges: []*satellitev1.TraceRange{{Offset: 5, Length: 6}, {Offset: 1, Length: 2}}}
	if diff := cmp.Diff(want, wait(t, "trace", c.Traces), protocmp.Transform()); diff != "" {
		t.Errorf("trace (-want +got):\n%s", diff)
	}
	v := wait(t, "report", c.Reports).GetVersions()[0]
	base := manifest.ID{6}
	wantVersion := &satellitev1.VersionStatus{Image: "lab", Number: 2, Id: id[:], State: satellitev1.VersionState_VERSION_STATE_SERVING, Behind: "slow",
		Started: timestamppb.New(started), Plan: &satellitev1.SyncPlan{Method: satellitev1.SyncMethod_SYNC_METHOD_DELTA, Reason: "cheapest", WireBytes: 9,
			BaseId: base[:], Expected: durationpb.New(0)}}
	if diff := cmp.Diff(wantVersion, v, protocmp.Transform()); diff != "" {
		t.Errorf("version (-want +got):\n%s", diff)
	}
	wait(t, "first state", s.desired)
	for window, want := range map[string]config.Window{"22:00-06:30": {Start: 22 * time.Hour, End: 6*time.Hour + 30*time.Minute}, "nonsense": {}} {
		c.Want(func(d *satellitev1.DesiredState) {
			d.Transfer = &satellitev1.TransferPolicy{BytesPerSecond: 5, Window: window, LazyWait: durationpb.New(3 * time.Second), CompleteOnly: true}
		})
		got := wait(t, "state", s.desired).Transfer
		if diff := cmp.Diff(config.Transfer{BytesPerSecond: 5, Window: want, LazyWait: 3 * time.Second, CompleteOnly: true}, got); diff != "" {
			t.Errorf("policy with window %q (-want +got):\n%s", window, diff)
		}
	}
}

func FuzzPlan(f *testing.F) {
	sum := sha256.Sum256(nil)
	for _, p := range []*satellitev1.PlanSyncResponse{
		{}, {Plan: &satellitev1.SyncPlan{Method: satellitev1.SyncMethod_SYNC_METHOD_WAIT, RetryAfter: durationpb.New(-1)}},
		{Plan: &satellitev1.SyncPlan{Method: satellitev1.SyncMethod_SYNC_METHOD_DELTA, BaseId: sum[:]},
			Delta: &satellitev1.DeltaFile{Sha256: sum[:], SizeBytes: 1 << 63, IndexBytes: 5, FirstGroups: []uint32{1}}},
	} {
		b, err := proto.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		p := new(satellitev1.PlanSyncResponse)
		if proto.Unmarshal(in, p) != nil {
			return
		}
		plan, err := upstream.PlanFromProto(p)
		if err != nil {
			return
		}
		if plan.Method == config.ByDelta && plan.Delta.Validate() != nil || plan.Expected < 0 || plan.Retry < 0 {
			t.Errorf("plan %+v", plan)
		}
		upstream.PlanProto(&plan)
	})
}
