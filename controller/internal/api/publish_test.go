package api_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/api"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
)

func TestPublishTwice(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	one, two := newSample(t, "lab", 100_000), newSample(t, "lab", 100_000)
	first := b.publish(admin, one, "stable")
	if n := b.upload(admin, one); n != 0 {
		t.Errorf("%d chunks were sent twice", n)
	}
	again := b.publish(admin, one)
	if again.GetCreated() || again.GetVersion().GetNumber() != first.GetVersion().GetNumber() {
		t.Errorf("the same once more: %v", again)
	}
	b.publish(admin, two, "stable")
	old := b.publish(admin, one, "stable") // what an older version consists of: no ID is given twice, the channel moves
	if old.GetCreated() || old.GetVersion().GetNumber() != 1 {
		t.Errorf("an older version once more: %v", old)
	}
	got, err := adminv1.NewImageServiceClient(admin).GetImage(b.ctx, &adminv1.GetImageRequest{Name: "lab"})
	if err != nil || len(got.GetImage().GetVersions()) != 2 || got.GetImage().GetChannels()[0].GetVersion() != 1 || got.GetImage().GetChannels()[0].GetPrevious() != 2 {
		t.Errorf("image: %v, %v", got, err)
	}
	list, err := adminv1.NewImageServiceClient(admin).ListImages(b.ctx, &adminv1.ListImagesRequest{})
	if err != nil || len(list.GetImages()) != 1 || len(list.GetImages()[0].GetVersions()) != 1 || list.GetImages()[0].GetVersions()[0].GetNumber() != 2 {
		t.Errorf("list: %v, %v", list, err)
	}
}

// A bit that flips on the controller's disk is found when the version is published, and when it is fetched; uploading again repairs both.
func TestDamagedChunk(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.site(admin, "a", "lab:stable")
	sat := b.enrol(b.token(admin, "a"), "a1")
	s := newSample(t, "lab", 200_000)
	victim := s.draft.Artifacts[0].Chunks[2].ID
	b.upload(admin, s)
	b.chunks.Damage(victim)
	_, err := b.tryPublish(admin, s.encode(t))
	want(t, "publish with a damaged chunk", err, codes.DataLoss)
	if n := b.upload(admin, s); n != 1 {
		t.Errorf("%d chunks were asked for again, want the damaged one", n)
	}
	id := b.publish(admin, s, "stable").GetVersion().GetId()
	checkCopy(t, b, sat, id, s)
	b.chunks.Damage(victim)
	data, err := b.fetch(sat, id, s.draft.Artifacts[0].Chunks)
	want(t, "fetch of a damaged chunk", err, codes.DataLoss)
	if !bytes.Equal(data, s.files[manifest.Squashfs][:len(data)]) || len(data) != 100_000 {
		t.Errorf("%d bytes came before the damaged chunk, want 100000", len(data))
	}
	if n := b.upload(admin, s); n != 1 {
		t.Errorf("%d chunks were asked for again, want the damaged one", n)
	}
	checkCopy(t, b, sat, id, s)
}

func TestUploads(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	client := chunkv1.NewChunkServiceClient(admin)
	s := newSample(t, "lab", 500_000)
	refs := s.draft.Artifacts[0].Chunks

	ctx, cancel := context.WithCancel(b.ctx)
	stream, err := client.PutChunks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range refs[:3] {
		if err := stream.Send(&chunkv1.PutChunksRequest{Id: ref.ID[:], Data: s.chunks[ref.ID]}); err != nil {
			t.Fatal(err)
		}
	}
	b.eventually("three chunks are there", func() string {
		has, err := b.chunks.Has(b.ctx, []chunk.ID{refs[0].ID, refs[1].ID, refs[2].ID})
		if err != nil || !has[0] || !has[1] || !has[2] {
			return fmt.Sprint(has, err)
		}
		return ""
	})
	cancel() // the line breaks; what arrived whole stays
	_, err = b.tryPublish(admin, s.encode(t))
	want(t, "publish of half an upload", err, codes.FailedPrecondition)
	if n := b.upload(admin, s); n != len(s.chunks)-3 {
		t.Errorf("%d chunks were sent after the interruption, want %d", n, len(s.chunks)-3)
	}
	b.publish(admin, s)

	good := refs[0].ID
	for name, req := range map[string]*chunkv1.PutChunksRequest{
		"flipped": {Id: good[:], Data: append([]byte{s.chunks[good][0] ^ 1}, s.chunks[good][1:]...)}, "truncated": {Id: good[:], Data: s.chunks[good][:100]},
		"empty": {Id: good[:]}, "short ID": {Id: good[:31], Data: s.chunks[good]}, "too large": {Id: good[:], Data: make([]byte, chunk.MaxSize+1)},
	} {
		stream, err := client.PutChunks(b.ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(req) // CloseAndRecv has the error
		_, err = stream.CloseAndRecv()
		want(t, "chunk "+name, err, codes.InvalidArgument)
	}
	_, err = client.FindMissing(b.ctx, &chunkv1.FindMissingRequest{Ids: make([][]byte, 8193)})
	want(t, "too many IDs", err, codes.InvalidArgument)
	_, err = client.FindMissing(b.ctx, &chunkv1.FindMissingRequest{Ids: [][]byte{{1, 2}}})
	want(t, "bad ID", err, codes.InvalidArgument)
}

func TestFullDisk(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	s := newSample(t, "lab", 300_000)
	b.chunks.MaxBytes = 120_000
	stream, err := chunkv1.NewChunkServiceClient(admin).PutChunks(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for id, data := range s.chunks {
		if err := stream.Send(&chunkv1.PutChunksRequest{Id: bytes.Clone(id[:]), Data: data}); err != nil {
			break
		}
	}
	_, err = stream.CloseAndRecv()
	want(t, "upload to a full disk", err, codes.ResourceExhausted)
	_, err = b.tryPublish(admin, s.encode(t))
	want(t, "publish of what did not fit", err, codes.FailedPrecondition)
}

// What a draft claims is believed only as far as it can be proven.
func TestHostileDrafts(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	s := newSample(t, "lab", 100_000)
	b.upload(admin, s)
	tests := map[string]struct {
		harm func(*manifest.Manifest)
		code codes.Code
	}{
		"digest":             {func(m *manifest.Manifest) { m.Digest[3] ^= 1 }, codes.InvalidArgument},
		"file hash":          {func(m *manifest.Manifest) { m.Artifacts[0].SHA256[3] ^= 1 }, codes.InvalidArgument},
		"kernel's hash":      {func(m *manifest.Manifest) { m.Artifacts[1].SHA256[3] ^= 1 }, codes.InvalidArgument},
		"chunks swapped":     {func(m *manifest.Manifest) { c := m.Artifacts[0].Chunks; c[0], c[1] = c[1], c[0] }, codes.InvalidArgument},
		"chunk not there":    {func(m *manifest.Manifest) { m.Artifacts[0].Chunks[0].ID[0] ^= 1 }, codes.FailedPrecondition},
		"chunk sizes":        {func(m *manifest.Manifest) { c := m.Artifacts[0].Chunks; c[0].Size--; c[1].Size++ }, codes.InvalidArgument},
		"architecture":       {func(m *manifest.Manifest) { m.Arch = "vax" }, codes.InvalidArgument},
		"control characters": {func(m *manifest.Manifest) { m.Note = "a\nb" }, codes.InvalidArgument},
		"boot loaders' name": {func(m *manifest.Manifest) { m.Name = "bootloaders" }, codes.InvalidArgument},
		"boot loaders' kind": {func(m *manifest.Manifest) { m.Kind, m.Digest = manifest.Bootloaders, [32]byte{} }, codes.InvalidArgument},
		"empty squashfs": {func(m *manifest.Manifest) {
			m.Artifacts[0] = manifest.Artifact{Name: manifest.Squashfs, SHA256: chunk.Sum(nil)}
		}, codes.InvalidArgument},
	}
	for name, test := range tests {
		m, err := manifest.Decode(s.encode(t))
		if err != nil {
			t.Fatal(err)
		}
		test.harm(m)
		draft, err := m.Encode()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, err = b.tryPublish(admin, draft)
		want(t, name, err, test.code)
	}
	for name, draft := range rawDrafts(t, s) {
		_, err := b.tryPublish(admin, draft)
		want(t, name, err, codes.InvalidArgument)
	}
	_, err := b.tryPublish(admin, s.encode(t), "Bad Channel")
	want(t, "channel name", err, codes.InvalidArgument)
	_, err = adminv1.NewImageServiceClient(admin).GetImage(b.ctx, &adminv1.GetImageRequest{Name: "lab"})
	want(t, "image after refused drafts", err, codes.NotFound)
	m, err := manifest.Decode(s.encode(t))
	if err != nil {
		t.Fatal(err)
	}
	m.Number, m.Publisher = 4711, "root" // not the publisher's to say
	draft, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.tryPublish(admin, draft)
	if err != nil || resp.GetVersion().GetNumber() != 1 || resp.GetVersion().GetPublisher() != "anna" {
		t.Errorf("draft with a number: %v, %v", resp, err)
	}
}

func rawDrafts(t *testing.T, s *sample) map[string][]byte {
	t.Helper()
	good := s.encode(t)
	version := bytes.Clone(good)
	binary.BigEndian.PutUint16(version[8:], 9)
	counts := bytes.Clone(good)
	at := bytes.Index(counts, []byte("squashfs")) + len("squashfs") + 8 + 32
	binary.BigEndian.PutUint32(counts[at:], math.MaxUint32)
	return map[string][]byte{
		"empty": nil, "rubbish": []byte("rubbish"), "truncated": good[:len(good)-1], "longer": append(bytes.Clone(good), 0), "format version": version, "chunk count": counts,
	}
}

func TestDeleteVersions(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	images := adminv1.NewImageServiceClient(admin)
	b.site(admin, "a", "lab:stable")
	one, two := newSample(t, "lab", 100_000), newSample(t, "lab", 100_000)
	b.publish(admin, one, "stable")
	b.publish(admin, two)
	_, err := images.DeleteVersion(b.ctx, &adminv1.DeleteVersionRequest{Image: "lab", Version: 1})
	want(t, "delete what a channel points to", err, codes.FailedPrecondition)
	_, err = images.DeleteVersion(b.ctx, &adminv1.DeleteVersionRequest{Image: "lab", Version: 7})
	want(t, "delete nothing", err, codes.NotFound)
	_, err = images.DeleteImage(b.ctx, &adminv1.DeleteImageRequest{Name: "lab"})
	want(t, "delete an image in use", err, codes.FailedPrecondition)
	freed, err := images.DeleteVersion(b.ctx, &adminv1.DeleteVersionRequest{Image: "lab", Version: 2})
	if err != nil || freed.GetFreedBytes() != 200_000 {
		t.Errorf("freed %d bytes, error %v; want 200000", freed.GetFreedBytes(), err)
	}
	if got := b.publish(admin, two).GetVersion().GetNumber(); got != 3 {
		t.Errorf("published again as %d; numbers are not given twice", got)
	}
	if _, err := adminv1.NewSiteServiceClient(admin).DeleteSite(b.ctx, &adminv1.DeleteSiteRequest{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	gone, err := images.DeleteImage(b.ctx, &adminv1.DeleteImageRequest{Name: "lab"})
	if err != nil || gone.GetFreedBytes() != 400_000 {
		t.Errorf("freed %d bytes, error %v; want 400000", gone.GetFreedBytes(), err)
	}
}

func TestLimits(t *testing.T) {
	b := start(t, api.Limits{StreamsPerIdentity: 3, PutStreams: 1, MessageBytes: 2 << 20})
	admin := b.admin("anna")
	chunks := chunkv1.NewChunkServiceClient(admin)
	s := newSample(t, "lab", 60_000)
	first, err := chunks.PutChunks(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	ref := s.draft.Artifacts[0].Chunks[0]
	if err := first.Send(&chunkv1.PutChunksRequest{Id: ref.ID[:], Data: s.chunks[ref.ID]}); err != nil {
		t.Fatal(err)
	}
	b.eventually("the first upload runs", func() string {
		if _, err := b.chunks.Stat(b.ctx, ref.ID); err != nil {
			return err.Error()
		}
		return ""
	})
	second, err := chunks.PutChunks(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, err = second.CloseAndRecv()
	want(t, "second upload", err, codes.ResourceExhausted)
	_, err = b.tryPublish(admin, make([]byte, 3<<20))
	want(t, "large message", err, codes.ResourceExhausted)
	if _, err := first.CloseAndRecv(); err != nil {
		t.Errorf("first upload: %v", err)
	}

	other := b.admin("berta")
	for range 3 {
		w, err := adminv1.NewServerServiceClient(other).Watch(b.ctx, &adminv1.WatchRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Header(); err != nil {
			t.Fatal(err)
		}
	}
	// A connection of its own: on the old one, HTTP/2 makes the caller wait.
	_, err = adminv1.NewServerServiceClient(b.adminAgain("berta")).GetVersion(b.ctx, &adminv1.GetVersionRequest{})
	want(t, "fourth call of one admin", err, codes.ResourceExhausted)
	_, err = adminv1.NewServerServiceClient(admin).GetVersion(b.ctx, &adminv1.GetVersionRequest{})
	want(t, "call of another admin", err, codes.OK)
}

func TestWatch(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	server := adminv1.NewServerServiceClient(admin)
	w, err := server.Watch(b.ctx, &adminv1.WatchRequest{Kinds: []string{"site", "token"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Header(); err != nil { // from now on nothing is missed
		t.Fatal(err)
	}
	b.site(admin, "a")
	if got, err := w.Recv(); err != nil || fmt.Sprint(got.GetKinds()) != "[site]" {
		t.Errorf("got %v, %v; want site", got, err)
	}
	b.publish(admin, newSample(t, "lab", 10_000)) // nobody asked for images
	b.token(admin, "a")
	if got, err := w.Recv(); err != nil || fmt.Sprint(got.GetKinds()) != "[token]" {
		t.Errorf("got %v, %v; want token", got, err)
	}
	bad, err := server.Watch(b.ctx, &adminv1.WatchRequest{Kinds: []string{"weather"}})
	if err == nil {
		_, err = bad.Recv()
	}
	want(t, "unknown kind", err, codes.InvalidArgument)
	version, err := server.GetVersion(b.ctx, &adminv1.GetVersionRequest{})
	if err != nil || version.GetBuild() != "test" || status.Code(err) != codes.OK {
		t.Errorf("version %v, %v", version, err)
	}
}
