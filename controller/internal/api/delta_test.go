package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/api"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/imagediff"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

// realSample is a draft with one of two small real images, v1 and v2, as its root file system.
func realSample(t testing.TB, version string) *sample {
	t.Helper()
	root, err := os.ReadFile("../deltas/testdata/" + version + ".squashfs")
	if err != nil {
		t.Fatal(err)
	}
	s := newSample(t, "lab", 100)
	for _, a := range s.draft.Artifacts[:1] {
		for _, ref := range a.Chunks {
			delete(s.chunks, ref.ID)
		}
	}
	s.files[manifest.Squashfs] = root
	refs, err := chunk.CutSquashfs(t.Context(), bytes.NewReader(root), int64(len(root)), nil)
	if err != nil {
		t.Fatal(err)
	}
	a := manifest.Artifact{Name: manifest.Squashfs, Size: uint64(len(root)), SHA256: chunk.Sum(root), Chunks: refs}
	at := 0
	for _, ref := range refs {
		s.chunks[ref.ID] = root[at : at+int(ref.Size)]
		at += int(ref.Size)
	}
	s.draft.Artifacts[0] = a
	digest, err := verity.Compute(t.Context(), verity.Padded(bytes.NewReader(root), int64(len(root))), verity.PaddedSize(uint64(len(root))), nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.draft.Digest = digest
	return s
}

func source(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

func (b *bench) plan(sat *satellite, want []byte, have ...[]byte) *satellitev1.PlanSyncResponse {
	b.t.Helper()
	resp, err := satellitev1.NewLinkServiceClient(sat).PlanSync(b.ctx, &satellitev1.PlanSyncRequest{
		Id: want, Have: have, LinkBytesPerSecond: 100_000, RecompressBytesPerSecond: 10_000_000,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return resp
}

// fleetOfTwo has published v1 and v2 of lab; a satellite's site is assigned both.
func fleetOfTwo(t testing.TB) (b *bench, admin *grpc.ClientConn, sat *satellite, samples [2]*sample, ids [2][]byte) {
	t.Helper()
	b = start(t, api.Limits{})
	admin = b.admin("anna")
	b.site(admin, "a", "lab:stable", "lab:testing")
	sat = b.enrol(b.token(admin, "a"), "a1")
	samples = [2]*sample{realSample(t, "v1"), realSample(t, "v2")}
	ids[0] = b.publish(admin, samples[0], "stable").GetVersion().GetId()
	ids[1] = b.publish(admin, samples[1], "testing").GetVersion().GetId()
	return b, admin, sat, samples, ids
}

// A satellite that has v1 is told to wait for the delta, which is made because it asked, then to take it; what it fetches makes v2.
func TestSyncByDelta(t *testing.T) {
	b, admin, sat, samples, ids := fleetOfTwo(t)
	_, err := adminv1.NewSiteServiceClient(admin).UpdateSite(b.ctx, &adminv1.UpdateSiteRequest{Site: &adminv1.Site{
		Name: "a", Images: []string{"lab:stable", "lab:testing"}, Transfer: &satellitev1.TransferPolicy{Method: satellitev1.SyncMethod_SYNC_METHOD_DELTA},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if p := b.plan(sat, ids[1]).GetPlan(); p.GetMethod() != satellitev1.SyncMethod_SYNC_METHOD_CHUNKS || !strings.Contains(p.GetReason(), "no version that a delta could begin at") {
		t.Errorf("with nothing at hand: %v", p)
	}
	var resp *satellitev1.PlanSyncResponse
	b.eventually("the delta is made", func() string {
		resp = b.plan(sat, ids[1], ids[0])
		p := resp.GetPlan()
		if p.GetMethod() == satellitev1.SyncMethod_SYNC_METHOD_WAIT && p.GetRetryAfter().AsDuration() == 0 {
			t.Error("told to wait for no time")
		}
		if p.GetMethod() != satellitev1.SyncMethod_SYNC_METHOD_DELTA {
			return p.String()
		}
		return ""
	})
	d := resp.GetDelta()
	if !bytes.Equal(resp.GetPlan().GetBaseId(), ids[0]) || d.GetSizeBytes() != resp.GetPlan().GetWireBytes() || d.GetIndexBytes() == 0 {
		t.Errorf("plan %v", resp)
	}
	ask := func(off, length uint64) *chunkv1.FetchRequest {
		return &chunkv1.FetchRequest{VersionId: ids[1], What: &chunkv1.FetchRequest_Delta{Delta: &chunkv1.FetchRequest_DeltaRange{
			BaseId: ids[0], Sha256: d.GetSha256(), Offset: off, Length: length,
		}}}
	}
	var wire []byte
	for _, part := range [][2]uint64{{0, d.GetIndexBytes()}, {d.GetIndexBytes(), d.GetSizeBytes() - d.GetIndexBytes()}} {
		got, err := b.fetchRaw(sat, ask(part[0], part[1]))
		if err != nil {
			t.Fatal(err)
		}
		wire = append(wire, got...)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	if err := delta.Apply(b.ctx, source(samples[0].files[manifest.Squashfs]), source(wire), out, delta.Options{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(got, samples[1].files[manifest.Squashfs]) {
		t.Errorf("the delta makes another image (%v)", err)
	}
	refuse(t, b, sat, ask, d)
}

// refuse asks for what a satellite must not get.
func refuse(t *testing.T, b *bench, sat *satellite, ask func(off, length uint64) *chunkv1.FetchRequest, d *satellitev1.DeltaFile) {
	t.Helper()
	for name, test := range map[string]struct {
		change func(*chunkv1.FetchRequest)
		code   codes.Code
	}{
		"beyond its end":     {func(r *chunkv1.FetchRequest) { r.GetDelta().Length = d.GetSizeBytes() + 1 }, codes.InvalidArgument},
		"before its end":     {func(r *chunkv1.FetchRequest) { r.GetDelta().Offset = 1 << 63 }, codes.InvalidArgument},
		"another delta":      {func(r *chunkv1.FetchRequest) { r.GetDelta().Sha256 = make([]byte, 31) }, codes.InvalidArgument},
		"one that was made":  {func(r *chunkv1.FetchRequest) { r.GetDelta().Sha256 = bytes.Repeat([]byte{1}, 32) }, codes.NotFound},
		"no delta":           {func(r *chunkv1.FetchRequest) { r.GetDelta().BaseId = r.VersionId }, codes.NotFound},
		"not assigned":       {func(r *chunkv1.FetchRequest) { r.VersionId = make([]byte, 32) }, codes.PermissionDenied},
		"nothing in its ask": {func(r *chunkv1.FetchRequest) { r.What = nil }, codes.InvalidArgument},
	} {
		r := ask(0, 10)
		test.change(r)
		got, err := b.fetchRaw(sat, r)
		want(t, name, err, test.code)
		if len(got) != 0 {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
}

// A manifest comes with the lists that were asked for, and is the same manifest.
func TestManifestLists(t *testing.T) {
	b, _, sat, _, ids := fleetOfTwo(t)
	for _, test := range []struct {
		lists []string
		want  string
	}{{nil, ""}, {[]string{"kernel", "initrd-full"}, "kernel initrd-full"}, {[]string{"*"}, "squashfs kernel initrd-full"}} {
		resp, err := satellitev1.NewLinkServiceClient(sat).GetManifest(b.ctx, &satellitev1.GetManifestRequest{Id: ids[0], Lists: test.lists})
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.Open(resp.GetManifest(), sat.signing)
		if err != nil {
			t.Fatal(err)
		}
		var listed []string
		for i := range m.Artifacts {
			if m.Artifacts[i].Listed() {
				listed = append(listed, m.Artifacts[i].Name)
			}
		}
		if got := strings.Join(listed, " "); got != test.want || m.ID() != manifest.ID(ids[0]) {
			t.Errorf("asked for %v: lists of %q, version %s", test.lists, got, m.ID())
		}
		if len(test.lists) == 0 && len(resp.GetManifest()) > 1000 {
			t.Errorf("%d bytes without lists", len(resp.GetManifest()))
		}
	}
}

// The upload of a new version may be a delta from one that is here; the version is the same as if it had come in chunks.
func TestPublishByDelta(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	one, two := realSample(t, "v1"), realSample(t, "v2")
	oldRoot, newRoot := one.files[manifest.Squashfs], two.files[manifest.Squashfs]
	var wire bytes.Buffer
	if _, err := delta.Make(b.ctx, source(oldRoot), source(newRoot), &wire, delta.Options{}); err != nil {
		t.Fatal(err)
	}
	draft, err := two.draft.EncodeListed(func(name string) bool { return name != manifest.Squashfs })
	if err != nil {
		t.Fatal(err)
	}
	packed := two.cut("delta", wire.Bytes())
	request := &adminv1.PublishVersionRequest{Draft: draft, Delta: &adminv1.DeltaSource{BaseSha256: bytes.Clone(one.draft.Artifacts[0].SHA256[:]), Sha256: bytes.Clone(packed.SHA256[:])}}
	for _, ref := range packed.Chunks {
		request.Delta.Chunks = append(request.Delta.Chunks, &adminv1.DeltaChunk{Id: bytes.Clone(ref.ID[:]), Size: ref.Size})
	}
	for _, ref := range two.draft.Artifacts[0].Chunks {
		delete(two.chunks, ref.ID) // they must come out of the delta
	}
	b.upload(admin, two)
	images := adminv1.NewImageServiceClient(admin)
	_, err = images.PublishVersion(b.ctx, request)
	want(t, "base that is not here", err, codes.NotFound)
	b.publish(admin, one, "stable")
	_, err = images.PublishVersion(b.ctx, &adminv1.PublishVersionRequest{Draft: draft})
	want(t, "draft without a list", err, codes.InvalidArgument)
	request.Delta.Sha256[0] ^= 1
	_, err = images.PublishVersion(b.ctx, request)
	want(t, "delta with another sum", err, codes.InvalidArgument)
	request.Delta.Sha256[0] ^= 1
	resp, err := images.PublishVersion(b.ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	id := two.draft.ID()
	if !resp.GetCreated() || resp.GetVersion().GetNumber() != 2 || !bytes.Equal(resp.GetVersion().GetId(), id[:]) {
		t.Errorf("published %v", resp)
	}
	b.site(admin, "a", "lab:stable")
	stream, err := images.GetDelta(b.ctx, &adminv1.GetDeltaRequest{Image: "lab", From: 1, To: 2})
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.Recv()
	if err != nil || m.GetDelta().GetState() != "ready" || m.GetDelta().GetSizeBytes() != uint64(wire.Len()) {
		t.Errorf("the uploaded delta is not kept for satellites: %v, %v", m, err)
	}
}

func TestGetDeltaAndDiff(t *testing.T) {
	b, admin, _, _, _ := fleetOfTwo(t)
	images := adminv1.NewImageServiceClient(admin)
	stream, err := images.GetDelta(b.ctx, &adminv1.GetDeltaRequest{Image: "lab", From: 1, To: 2, Make: true})
	if err != nil {
		t.Fatal(err)
	}
	var last *adminv1.DeltaInfo
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		last = m.GetDelta()
	}
	if last.GetState() != "ready" || last.GetGroups() != 1 || len(last.GetSections()) == 0 || last.GetChunkBytes() == 0 || last.GetEncoder() == "" {
		t.Errorf("made %v", last)
	}
	for name, r := range map[string]*adminv1.GetDeltaRequest{"unknown version": {Image: "lab", From: 1, To: 7}, "unknown image": {Image: "x", From: 1, To: 2}} {
		stream, err := images.GetDelta(b.ctx, r)
		if err == nil {
			_, err = stream.Recv()
		}
		want(t, name, err, codes.NotFound)
	}
	diff, err := images.DiffVersions(b.ctx, &adminv1.DiffVersionsRequest{Image: "lab", From: 1, To: 2})
	if err != nil {
		t.Fatal(err)
	}
	var result imagediff.Result
	for {
		m, err := diff.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if raw := m.GetResult(); raw != nil {
			if err := json.Unmarshal(raw, &result); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []string
	for _, f := range result.Files {
		got = append(got, string(f.Kind)+" "+f.Path)
	}
	if fmt.Sprint(got) != "[changed /etc/version changed /usr/bin/numbers]" {
		t.Errorf("differences: %v", got)
	}
}

// What a satellite says about its transfer is what the admin sees.
func TestListSyncPlans(t *testing.T) {
	b, admin, sat, _, ids := fleetOfTwo(t)
	stream := b.connect(sat)
	plan := &satellitev1.SyncPlan{Method: satellitev1.SyncMethod_SYNC_METHOD_DELTA, Reason: "because", WireBytes: 5, BaseId: ids[0], Options: []*satellitev1.SyncOption{
		{Method: satellitev1.SyncMethod_SYNC_METHOD_CHUNKS, WireBytes: 50, Unavailable: "policy"},
	}}
	report := &satellitev1.StatusReport{Versions: []*satellitev1.VersionStatus{
		{Image: "lab", Number: 1, Id: ids[0], State: satellitev1.VersionState_VERSION_STATE_VERIFIED},
		{Image: "lab", Number: 2, Id: ids[1], State: satellitev1.VersionState_VERSION_STATE_SERVING, Plan: plan, Behind: "the line is slow"},
	}}
	if err := stream.Send(&satellitev1.ConnectRequest{Message: &satellitev1.ConnectRequest_Status{Status: report}}); err != nil {
		t.Fatal(err)
	}
	trace := &satellitev1.BootTrace{Id: ids[0], Boots: 1, Ranges: []*satellitev1.TraceRange{{Offset: 0, Length: 4096}}}
	if err := stream.Send(&satellitev1.ConnectRequest{Message: &satellitev1.ConnectRequest_Trace{Trace: trace}}); err != nil {
		t.Fatal(err)
	}
	images := adminv1.NewImageServiceClient(admin)
	b.eventually("the plan is listed", func() string {
		r, err := images.ListSyncPlans(b.ctx, &adminv1.ListSyncPlansRequest{Image: "lab", Number: 2})
		if err != nil || len(r.GetSatellites()) != 1 {
			return fmt.Sprint(r, err)
		}
		s := r.GetSatellites()[0]
		if s.GetSatellite() != "a1" || s.GetBase() != "lab@1" || s.GetVersion().GetPlan().GetReason() != "because" || len(s.GetVersion().GetPlan().GetOptions()) != 1 ||
			s.GetVersion().GetState() != satellitev1.VersionState_VERSION_STATE_SERVING || s.GetVersion().GetBehind() == "" {
			return s.String()
		}
		return ""
	})
	if r, err := images.ListSyncPlans(b.ctx, &adminv1.ListSyncPlansRequest{}); err != nil || len(r.GetSatellites()) != 2 {
		t.Errorf("all: %v, %v", r, err)
	}
	_, err := images.ListSyncPlans(b.ctx, &adminv1.ListSyncPlansRequest{Image: "none"})
	want(t, "unknown image", err, codes.NotFound)
	// The trace orders the delta's groups.
	b.eventually("the trace has an effect", func() string {
		resp := b.plan(sat, ids[1], ids[0])
		if resp.GetPlan().GetMethod() != satellitev1.SyncMethod_SYNC_METHOD_DELTA && resp.GetPlan().GetMethod() != satellitev1.SyncMethod_SYNC_METHOD_CHUNKS {
			return resp.String()
		}
		return ""
	})
}

// A site's cap holds for all that its satellites fetch together: the second half MiB of 1 MiB must wait for its share.
func TestBandwidthCap(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.site(admin, "a", "lab:stable")
	sat := b.enrol(b.token(admin, "a"), "a1")
	s := newSample(t, "lab", 1<<20)
	id := b.publish(admin, s, "stable").GetVersion().GetId()
	update := func(rate uint64) {
		t.Helper()
		_, err := adminv1.NewSiteServiceClient(admin).UpdateSite(b.ctx, &adminv1.UpdateSiteRequest{Site: &adminv1.Site{
			Name: "a", Images: []string{"lab:stable"}, Transfer: &satellitev1.TransferPolicy{BytesPerSecond: rate},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	update(8 << 10) // half a minute for 256 KiB
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Second)
	defer cancel()
	slow := *b
	slow.ctx = ctx
	got, err := slow.fetchRaw(sat, &chunkv1.FetchRequest{VersionId: id, What: &chunkv1.FetchRequest_Chunks_{Chunks: allChunks(s.draft.Artifacts[0].Chunks)}})
	if err == nil || len(got) > 600<<10 {
		t.Errorf("%d bytes came through a cap of 8 KiB/s, error %v", len(got), err)
	}
	update(0)
	whole, err := b.fetch(sat, id, s.draft.Artifacts[0].Chunks)
	if err != nil || !bytes.Equal(whole, s.files[manifest.Squashfs]) {
		t.Errorf("without a cap: %d bytes, %v", len(whole), err)
	}
}

func allChunks(refs []chunk.Ref) *chunkv1.FetchRequest_Chunks {
	what := &chunkv1.FetchRequest_Chunks{}
	for _, ref := range refs {
		what.Ids = append(what.Ids, bytes.Clone(ref.ID[:]))
	}
	return what
}
