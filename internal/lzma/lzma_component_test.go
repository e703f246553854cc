//go:build component

package lzma_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/lzma"
)

// lzma2 returns xz's option for the parameters.
func lzma2(p lzma.Params) string {
	mode := map[lzma.Mode]string{lzma.Fast: "fast", lzma.Normal: "normal"}[p.Mode]
	finder := map[lzma.Finder]string{lzma.HC3: "hc3", lzma.HC4: "hc4", lzma.BT2: "bt2", lzma.BT3: "bt3", lzma.BT4: "bt4"}[p.Finder]
	return fmt.Sprintf("--lzma2=dict=%d,lc=%d,lp=%d,pb=%d,nice=%d,depth=%d,mode=%s,mf=%s",
		p.Dict, p.LC, p.LP, p.PB, p.Nice, p.Depth, mode, finder)
}

// xz returns what the system's xz, with one thread, makes of data.
func xz(tb testing.TB, data []byte, options ...string) []byte {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), "xz", append([]string{"-cqT1"}, options...)...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(data), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatal(options, err)
	}
	return out
}

func compare(t *testing.T, name string, e *lzma.Encoder, p lzma.Params, data []byte) {
	t.Helper()
	if err := e.Reset(p); err != nil {
		t.Fatal(name, err)
	}
	got, err := e.AppendLZMA2(nil, data)
	want := xz(t, data, "--format=raw", lzma2(p))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s %d %+v: %d bytes, want %d, equal until %d (%v)", name, len(data), p, len(got), len(want), common(got, want), err)
	}
	plain, err := lzma.DecodeLZMA2(nil, want, len(data))
	if err != nil || !bytes.Equal(plain, data) {
		t.Errorf("%s %d %+v: unpacked %d bytes (%v)", name, len(data), p, len(plain), err)
	}
}

func common(a, b []byte) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// TestPresets compares every preset with every kind of data at some sizes.
func TestPresets(t *testing.T) {
	var e lzma.Encoder
	defer e.Close()
	for level := range 20 {
		p := preset(t, level/2, level%2 == 1)
		for k, s := range samples {
			for i, n := range sizes {
				if (level+i+k)%31 == 0 {
					compare(t, s.name, &e, p, s.make(n))
				}
			}
		}
	}
}

// TestPresetsAreTheirs lets xz say what its presets are.
func TestPresetsAreTheirs(t *testing.T) {
	var e lzma.Encoder
	defer e.Close()
	data := mixed(60_000)
	for level := range 20 {
		name, p := fmt.Sprint(level/2), preset(t, level/2, level%2 == 1)
		if level%2 == 1 {
			name += "e"
		}
		got, err := e.AppendXZ(nil, lzma.Stream{Check: lzma.CheckCRC64, Params: p}, data)
		if want := xz(t, data, "-"+name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d (%v)", name, len(got), len(want), err)
		}
	}
}

// TestParamSets compares parameters drawn by chance, small dictionaries among them, with every kind of data in half of the
// sizes.
func TestParamSets(t *testing.T) {
	r := source(9)
	var e lzma.Encoder
	defer e.Close()
	finders := []lzma.Finder{lzma.BT4, lzma.BT4, lzma.BT3, lzma.BT2, lzma.HC4, lzma.HC3}
	dicts := []uint32{lzma.MinDict, 5000, 1 << 15, 100_003, 1 << 17, 3 << 19}
	for k, s := range samples {
		for i, n := range sizes {
			if (i+k)%2 != 0 {
				continue
			}
			p := lzma.Params{
				Dict: dicts[r.IntN(len(dicts))], LC: r.IntN(5), PB: r.IntN(5), Nice: 2 + r.IntN(272), Depth: r.IntN(3) * r.IntN(60),
				Mode: lzma.Normal, Finder: finders[r.IntN(len(finders))],
			}
			p.LP = r.IntN(5 - p.LC)
			if r.IntN(4) == 0 {
				p.Nice = 2 + r.IntN(8)
			}
			if r.IntN(4) == 0 {
				p.Mode = lzma.Fast
			}
			compare(t, s.name, &e, p, s.make(n))
		}
	}
}

// TestChunks compares inputs that reach the greatest plain size of a chunk.
func TestChunks(t *testing.T) {
	var e lzma.Encoder
	defer e.Close()
	for _, n := range []int{1<<21 - 274, 1<<21 - 273, 1<<21 - 272, 1<<21 + 1, 5 << 20} {
		for _, s := range []sample{samples[0], samples[5]} {
			compare(t, s.name, &e, preset(t, 6, false), s.make(n))
			compare(t, s.name, &e, preset(t, 1, false), s.make(n))
		}
	}
}

// TestContainer compares whole .xz streams, and unpacks xz's.
func TestContainer(t *testing.T) {
	names := []string{"none", "crc32", "crc64", "sha256"}
	for i, c := range checks {
		for _, s := range append(samples, sample{"calls", calls}) {
			for _, n := range []int{0, 1 + i, 20_000 << i} {
				data := s.make(n)
				p := preset(t, 2*i, false)
				p.Dict += 4096 * uint32(i)
				want := xz(t, data, "--check="+names[i], "--x86", lzma2(p))
				got, err := lzma.AppendXZ(nil, lzma.Stream{Check: c, X86: true, Params: p}, data)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s %d: %d bytes, want %d (%v)", s.name, n, len(got), len(want), err)
				}
				if plain, err := lzma.DecodeXZ(want, int64(n)); err != nil || !bytes.Equal(plain, data) {
					t.Errorf("%s %d: unpacked %d bytes (%v)", s.name, n, len(plain), err)
				}
			}
		}
	}
}

// TestThreads packs a stream again that has sizes in its block header.
func TestThreads(t *testing.T) {
	data := mixed(300_000)
	want := xz(t, data, "-T2", "-3")
	info, _, err := lzma.ParseXZ(want)
	if err != nil || !info.Sizes {
		t.Fatalf("%+v %v", info, err)
	}
	s := lzma.Stream{Check: info.Check, X86: info.X86, Params: preset(t, 3, false), Sizes: true, Header: info.Header}
	got, err := lzma.AppendXZ(nil, s, data)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d (%v)", len(got), len(want), err)
	}
}

// tools returns the Go tools, one after the other, as a large program.
func tools(tb testing.TB, size int) []byte {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), "go", "env", "GOROOT", "GOTOOLDIR").Output()
	if err != nil {
		tb.Fatal(err)
	}
	root, dir, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		tb.Fatal(err)
	}
	var all []byte
	for _, f := range append([]string{filepath.Join(root, "bin", "go")}, files...) {
		b, err := os.ReadFile(f)
		if err != nil {
			tb.Fatal(err)
		}
		if all = append(all, b...); len(all) >= size {
			return all[:size]
		}
	}
	tb.Fatalf("%d bytes of tools, want %d", len(all), size)
	return nil
}

// TestLarge packs a large program like the kernel's payload, and with a dictionary that it leaves far behind.
func TestLarge(t *testing.T) {
	data := tools(t, 9<<20)
	for _, dict := range []uint32{32 << 20, 1 << 20} {
		p := preset(t, 6, false)
		p.Dict = dict
		got, err := lzma.AppendXZ(nil, lzma.Stream{Check: lzma.CheckCRC32, X86: true, Params: p}, data)
		want := xz(t, data, "--check=crc32", "--x86", fmt.Sprintf("--lzma2=dict=%d", dict))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, want %d, equal until %d (%v)", len(got), len(want), common(got, want), err)
		}
		if plain, err := lzma.DecodeXZ(want, int64(len(data))); err != nil || !bytes.Equal(plain, data) {
			t.Errorf("unpacked %d bytes (%v)", len(plain), err)
		}
		data = data[:3<<20]
	}
}

var update = flag.Bool("update", false, "write testdata/golden.txt anew")

// TestGoldenIsTheirs makes golden.txt with xz.
func TestGoldenIsTheirs(t *testing.T) {
	theirs := goldenText(t, func(p lzma.Params, data []byte) []byte { return xz(t, data, "--format=raw", lzma2(p)) })
	if *update {
		if err := os.WriteFile("testdata/golden.txt", []byte(theirs), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if theirs != golden {
		t.Errorf("golden.txt is not what xz makes; run with -update")
	}
}
