//go:build component

package nested_test

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/nested"
)

// runXZ gives what the xz program makes of data.
func runXZ(t *testing.T, data []byte, options string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "xz", append(strings.Fields(options), "--stdout")...)
	cmd.Stdin = bytes.NewReader(data)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("xz %s: %v: %s", options, err, errs.String())
	}
	return out
}

// program is the beginning of a large program of this machine: the test's own.
func program(t *testing.T, n int) []byte {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) < n {
		t.Fatalf("%s has %d bytes only", path, len(data))
	}
	return data[:n]
}

// found opens data, packs its streams again, and returns them.
func found(t *testing.T, name string, data []byte, want int) []nested.Stream {
	t.Helper()
	streams := nested.Find("", data, nested.Limits{})
	if len(streams) != want {
		t.Fatalf("%s: %d streams, want %d", name, len(streams), want)
	}
	var enc nested.Encoder
	for _, s := range streams {
		roundTrip(t, &enc, name, data, s)
	}
	return streams
}

// TestXZProgram opens what xz itself packs with its many options.
func TestXZProgram(t *testing.T) {
	content := program(t, 800_000)
	for _, c := range []struct {
		options string
		preset  nested.XZPreset // 0: any that packs alike
	}{
		{"", nested.Preset6},
		{"-T1", nested.Preset6},
		{"-0", nested.Preset0},
		{"-1", nested.Preset1},
		{"-2 --check=none", nested.Preset2},
		{"-3", nested.Preset3},
		{"-4 --check=crc32", nested.Preset4},
		{"-5", nested.Preset5},
		{"-7", nested.Preset6},
		{"-8 --check=sha256", nested.Preset6},
		{"-9", nested.Preset6},
		{"-0e", nested.Preset6e},
		{"-3e", nested.Preset5e},
		{"-5e", nested.Preset5e},
		{"-6e", nested.Preset6e},
		{"-9e --check=crc32", nested.Preset6e},
		{"--check=crc32 --x86 --lzma2=dict=32MiB", nested.Preset6},
		{"--check=crc32 --x86 --lzma2=preset=9e,dict=1MiB", nested.Preset6e},
		{"--check=crc32 --lzma2=dict=1MiB", nested.Preset6},
		{"--lzma2=dict=1536KiB", nested.Preset6},
		{"-T2", nested.Preset6},
		{"-T2 --check=crc32 --x86 --lzma2=preset=1", nested.Preset1},
	} {
		t.Run(c.options, func(t *testing.T) {
			data := runXZ(t, content, c.options)
			s := found(t, c.options, data, 1)[0]
			if s.Offset != 0 || s.Length != int64(len(data)) || s.PlainLength != int64(len(content)) {
				t.Errorf("%+v of %d bytes", s, len(data))
			}
			p, err := nested.DecodeXZParams(s.Params)
			if err != nil || p.Preset != c.preset {
				t.Errorf("%+v, %v", p, err)
			}
		})
	}
}

// TestXZProgramOthers: what is not opened is left alone.
func TestXZProgramOthers(t *testing.T) {
	content := program(t, 600_000)
	for _, options := range []string{
		"--lzma2=lc=2", "--lzma2=pb=0", "--lzma2=nice=100", "--block-size=200000", "--delta=dist=4 --lzma2=preset=6", "--arm64 --lzma2=preset=6",
		"--format=lzma",
	} {
		found(t, options, runXZ(t, content, options), 0)
	}
}

// TestXZProgramFiles opens files in which xz streams are put together.
func TestXZProgramFiles(t *testing.T) {
	content := program(t, 700_000)
	one := runXZ(t, content[:300_000], "-6")
	two := runXZ(t, content[300_000:], "-9 --check=crc32")
	found(t, "two", append(bytes.Clone(one), two...), 2)
	found(t, "same", append(bytes.Clone(one), one...), 2)
	found(t, "empty", runXZ(t, nil, ""), 1)
	found(t, "byte", runXZ(t, []byte{1}, ""), 1)
	found(t, "random", runXZ(t, one, ""), 1)
	kernel := runXZ(t, content, "--check=crc32 --x86 --lzma2=dict=32MiB")
	found(t, "bzImage", bzImage(append(bytes.Clone(kernel), 0x60, 0xae, 0x0a, 0), one), 1)
}
