//go:build component

package initrd

import (
	"bytes"
	"os/exec"
	"testing"
)

// TestWithTheZstdProgram packs with zstd -19: the same bytes twice, and what `zstd -d` gives back is the archive.
func TestWithTheZstdProgram(t *testing.T) {
	m := image(t, ".xz")
	plain, _ := build(t, m, Options{Compression: None})
	b, st := build(t, m, Options{})
	if again, _ := build(t, m, Options{}); st.Compressor != "zstd -19" || !bytes.Equal(b, again) {
		t.Errorf("%+v, same again: %v", st, bytes.Equal(b, again))
	}
	cmd := exec.CommandContext(t.Context(), "zstd", "-dc")
	cmd.Stdin = bytes.NewReader(bytes.TrimRight(b, "\x00"))
	got, err := cmd.Output()
	if err != nil || !bytes.Equal(got, plain) {
		t.Errorf("zstd gives %d bytes instead of %d: %v", len(got), len(plain), err)
	}
}
