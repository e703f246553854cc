//go:build component

package delta

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestXZStreams: a file that xz has packed, as a kernel's payload is, costs what has changed of its content.
func TestXZStreams(t *testing.T) {
	dir := t.TempDir()
	text := words(rand.New(rand.NewPCG(3, 3)), 2<<20)
	pack := func() []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "xz", "-T1", "-c", "--check=crc32", "--x86", "--lzma2=dict=32MiB")
		cmd.Stdin = bytes.NewReader(text)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("xz: %v", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "payload.xz"), out, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d bytes by xz", len(out))
		return packTree(t, dir, "-comp", "zstd", "-all-time", "0")
	}
	old := pack()
	for i := 1000; i < len(text); i += 200_000 {
		text[i]++
	}
	neu := pack()
	st := roundTrip(t, old, neu, Options{})
	if st.NestedStreams != 1 || st.DeltaBytes > 4096 {
		t.Errorf("%d streams were opened, the delta has %d bytes", st.NestedStreams, st.DeltaBytes)
	}
	// With too little memory for xz's encoder the stream stays closed.
	if st := roundTrip(t, old, neu, Options{MemoryBytes: 64 << 20}); st.NestedStreams != 0 {
		t.Errorf("%d streams were opened in 64 MiB", st.NestedStreams)
	}
}
