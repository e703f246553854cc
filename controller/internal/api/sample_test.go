package api_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/rawcodec"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
)

// sample is an image made of random bytes: a draft, and the chunks that belong to it.
type sample struct {
	draft  *manifest.Manifest
	chunks map[chunk.ID][]byte
	files  map[string][]byte
}

func newSample(t testing.TB, name string, size int) *sample {
	t.Helper()
	s := &sample{chunks: map[chunk.ID][]byte{}, files: map[string][]byte{}}
	s.draft = &manifest.Manifest{Kind: manifest.Image, Name: name, Arch: "amd64", Release: "6.1.0", OS: "Test 1", Note: "a note"}
	for file, n := range map[string]int{manifest.Squashfs: size, manifest.Kernel: 70000, manifest.InitrdFull: 30000} {
		data := make([]byte, n)
		if _, err := rand.Read(data); err != nil {
			t.Fatal(err)
		}
		s.files[file] = data
	}
	for _, file := range []string{manifest.Squashfs, manifest.Kernel, manifest.InitrdFull} {
		s.draft.Artifacts = append(s.draft.Artifacts, s.cut(file, s.files[file]))
	}
	root := s.files[manifest.Squashfs]
	digest, err := verity.Compute(t.Context(), verity.Padded(bytes.NewReader(root), int64(size)), verity.PaddedSize(uint64(size)), nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.draft.Digest = digest
	return s
}

func (s *sample) cut(name string, data []byte) manifest.Artifact {
	size := 50000
	if len(data) > 10_000_000 {
		size = benchSize
	}
	a := manifest.Artifact{Name: name, Size: uint64(len(data)), SHA256: sha256.Sum256(data)}
	for len(data) > 0 {
		n := min(len(data), size)
		id := chunk.Sum(data[:n])
		s.chunks[id] = data[:n]
		a.Chunks = append(a.Chunks, chunk.Ref{ID: id, Size: uint32(n)})
		data = data[n:]
	}
	return a
}

func (s *sample) encode(t testing.TB) []byte {
	t.Helper()
	draft, err := s.draft.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return draft
}

// upload sends what the controller lacks and returns how many chunks that were.
func (b *bench) upload(admin *grpc.ClientConn, s *sample) int {
	b.t.Helper()
	client := chunkv1.NewChunkServiceClient(admin)
	req := &chunkv1.FindMissingRequest{}
	for id := range s.chunks {
		req.Ids = append(req.Ids, bytes.Clone(id[:]))
	}
	missing, err := client.FindMissing(b.ctx, req)
	if err != nil {
		b.t.Fatalf("find missing: %v", err)
	}
	stream, err := client.PutChunks(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, id := range missing.GetMissing() {
		if err := stream.Send(&chunkv1.PutChunksRequest{Id: id, Data: s.chunks[chunk.ID(id)]}); err != nil {
			b.t.Fatalf("put: %v", err)
		}
	}
	resp, err := stream.CloseAndRecv()
	if err != nil || resp.GetStored() != uint64(len(missing.GetMissing())) {
		b.t.Fatalf("put chunks: stored %d of %d, error %v", resp.GetStored(), len(missing.GetMissing()), err)
	}
	return len(missing.GetMissing())
}

func (b *bench) publish(admin *grpc.ClientConn, s *sample, channels ...string) *adminv1.PublishVersionResponse {
	b.t.Helper()
	b.upload(admin, s)
	resp, err := b.tryPublish(admin, s.encode(b.t), channels...)
	if err != nil {
		b.t.Fatalf("publish: %v", err)
	}
	return resp
}

func (b *bench) tryPublish(admin *grpc.ClientConn, draft []byte, channels ...string) (*adminv1.PublishVersionResponse, error) {
	return adminv1.NewImageServiceClient(admin).PublishVersion(b.ctx, &adminv1.PublishVersionRequest{Draft: draft, Channels: channels})
}

// fetch asks for chunks of a version and returns their bytes one after the other.
func (b *bench) fetch(s *satellite, version []byte, refs []chunk.Ref) ([]byte, error) {
	what := &chunkv1.FetchRequest_Chunks{}
	for _, ref := range refs {
		what.Ids = append(what.Ids, bytes.Clone(ref.ID[:]))
	}
	out, err := b.fetchRaw(s, &chunkv1.FetchRequest{VersionId: version, What: &chunkv1.FetchRequest_Chunks_{Chunks: what}})
	if err != nil {
		return out, err
	}
	at := 0
	for _, ref := range refs {
		if err := chunk.Verify(ref.ID, out[at:at+int(ref.Size)]); err != nil {
			b.t.Errorf("fetched %v", err)
		}
		at += int(ref.Size)
	}
	return out, nil
}

func (b *bench) fetchRaw(s *satellite, req *chunkv1.FetchRequest) ([]byte, error) {
	raw, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	var out []byte
	err = rawcodec.Fetch(b.ctx, s, "/ltsp.chunk.v1.BlobService/Fetch", raw, func(frame []byte) error {
		out = append(out, frame...)
		return nil
	})
	return out, err
}
