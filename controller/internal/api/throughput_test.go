package api_test

import (
	"bytes"
	"crypto/rand"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/api"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
)

// The chunks' way over TLS on loopback, client and server in one process, chunks in memory: protocol and hashing, no disk.

const (
	benchChunks = 64
	benchSize   = 256 << 10
)

func BenchmarkPutChunks(b *testing.B) {
	bench := start(b, api.Limits{})
	client := chunkv1.NewChunkServiceClient(bench.admin("anna"))
	data := make([]byte, benchSize)
	if _, err := rand.Read(data); err != nil {
		b.Fatal(err)
	}
	id := chunk.Sum(data)
	b.SetBytes(benchChunks * benchSize)
	for b.Loop() {
		stream, err := client.PutChunks(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		for range benchChunks {
			if err := stream.Send(&chunkv1.PutChunksRequest{Id: id[:], Data: data}); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := stream.CloseAndRecv(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFetchChunks(b *testing.B) {
	bench := start(b, api.Limits{})
	admin := bench.admin("anna")
	bench.site(admin, "a", "lab:stable")
	sat := bench.enrol(bench.token(admin, "a"), "a1")
	s := newSample(b, "lab", benchChunks*benchSize)
	version := bench.publish(admin, s, "stable").GetVersion().GetId()
	refs := s.draft.Artifacts[0].Chunks
	b.SetBytes(benchChunks * benchSize)
	for b.Loop() {
		got, err := bench.fetch(sat, version, refs)
		if err != nil || !bytes.Equal(got, s.files["squashfs"]) {
			b.Fatalf("fetched %d bytes, error %v", len(got), err)
		}
	}
}
