package manifest_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// example is what testdata/example.manifest holds: version 7 of the image "lab", made of three little files.
func example() *manifest.Manifest {
	artifact := func(name string, pieces ...string) manifest.Artifact {
		a := manifest.Artifact{Name: name}
		h := sha256.New()
		for _, piece := range pieces {
			h.Write([]byte(piece))
			a.Size += uint64(len(piece))
			a.Chunks = append(a.Chunks, chunk.Ref{ID: chunk.Sum([]byte(piece)), Size: uint32(len(piece))})
		}
		a.SHA256 = [32]byte(h.Sum(nil))
		return a
	}
	return &manifest.Manifest{
		Kind: manifest.Image, Name: "lab", Number: 7, Created: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Arch: "amd64", Release: "6.1.0-37-amd64",
		OS: "Debian GNU/Linux 12 (bookworm)", Note: "first of the term", Source: "/srv/chroot", Publisher: "anna",
		Digest:    sha256.Sum256([]byte("stands for a dm-verity root hash")),
		Artifacts: []manifest.Artifact{artifact("squashfs", "one chunk", "and another"), artifact("kernel", "a kernel"), artifact("initrd-full", "an initrd")},
	}
}

// exampleKey is a signing key for the example only.
func exampleKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
}

var update = flag.Bool("update", false, "write testdata/example.manifest")

const exampleFile = "testdata/example.manifest"

// The file of FORMAT.md's worked example is, byte for byte, what Sign makes of the example, and its ID never changes.
func TestExample(t *testing.T) {
	signed, err := manifest.Sign(example(), exampleKey())
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(exampleFile, signed, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(file, signed) {
		t.Errorf("%s differs from what Sign makes: the format has changed", exampleFile)
	}
	const id = "5af93d654568b4ef709c5a5b9fdea9855d8371508aafd80d1f64838a6b46f6b9"
	if got := example().ID().String(); got != id {
		t.Errorf("version ID %s, want %s: the ID of every version has changed", got, id)
	}
}

func ExampleOpen() {
	signed, err := os.ReadFile("testdata/example.manifest")
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := manifest.Open(signed, exampleKey().Public().(ed25519.PublicKey))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.Name, m.Number, m.Arch, m.Created.Format(time.RFC3339))
	fmt.Println("version ID", m.ID())
	fmt.Println("export", m.ExportName()[:12]+"...")
	for _, a := range m.Artifacts {
		fmt.Println(a.Name, a.Size, "bytes in", len(a.Chunks), "chunks")
	}
	// Output:
	// lab 7 amd64 2026-03-04T05:06:07Z
	// version ID 5af93d654568b4ef709c5a5b9fdea9855d8371508aafd80d1f64838a6b46f6b9
	// export lab@93a32c85...
	// squashfs 20 bytes in 2 chunks
	// kernel 8 bytes in 1 chunks
	// initrd-full 9 bytes in 1 chunks
}
