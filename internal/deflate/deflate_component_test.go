//go:build component

package deflate_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/deflate"
)

// gzipBody returns the deflate stream that the system's gzip makes of a file.
func gzipBody(tb testing.TB, file string, level int) []byte {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), "gzip", "-nc", fmt.Sprintf("-%d", level), file).Output()
	if err != nil {
		tb.Fatal(err)
	}
	return out[10 : len(out)-8]
}

// TestGNUGzip compares with the system's gzip: every kind of data with every size, and with every level at several sizes.
func TestGNUGzip(t *testing.T) {
	dir := t.TempDir()
	var encoders [10]*deflate.Encoder
	for level := 1; level <= 9; level++ {
		encoders[level] = encoder(t, deflate.Params{Variant: deflate.GNUGzip, Level: level})
	}
	for k, s := range samples {
		for i, n := range sizes {
			data := s.make(n)
			file := filepath.Join(dir, "data")
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			for level := 1; level <= 9; level++ {
				if (level+i+k)%5 != 0 {
					continue
				}
				want := gzipBody(t, file, level)
				compare(t, fmt.Sprintf("%s %d -%d", s.name, n, level), encoders[level], data, want)
			}
		}
	}
}

// TestZlib compares with the system's zlib, a fourth of the settings at each size.
func TestZlib(t *testing.T) {
	z := newZlib(t)
	for which, s := range samples {
		for i, n := range sizes {
			data := s.make(n)
			for j := (i + which) % 4; j < 12; j += 4 {
				k := i*12 + j
				p := deflate.Params{Variant: deflate.Zlib, Level: 1 + k%9, MemLevel: 8 + j%2, WindowBits: 15}
				switch {
				case j >= 9:
					p.WindowBits = 8 + k%8
					p.Strategy = k / 3 % 5
				case j >= 5:
					p.Strategy = k % 5
				}
				if k%17 == 0 {
					p.MemLevel = 1 + k%9
				}
				compareZlib(t, fmt.Sprintf("%s %d %+v", s.name, n, p), encoder(t, p), data, z.compress(t, data, p))
			}
		}
	}
}

var update = flag.Bool("update", false, "write testdata/golden.txt anew")

// TestGoldenIsTheirs makes golden.txt with the C programs.
func TestGoldenIsTheirs(t *testing.T) {
	z := newZlib(t)
	file := filepath.Join(t.TempDir(), "data")
	theirs := goldenText(func(p deflate.Params, data []byte) []byte {
		if p.Variant == deflate.Zlib {
			out := z.compress(t, data, p)
			return out[2 : len(out)-4]
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return gzipBody(t, file, p.Level)
	})
	if *update {
		if err := os.WriteFile("testdata/golden.txt", []byte(theirs), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if theirs != golden {
		t.Errorf("golden.txt is not what the programs make; run with -update")
	}
}

// TestLarge compares 12 MB at the two levels that matter most.
func TestLarge(t *testing.T) {
	data := mixed(12_000_000)
	file := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, level := range []int{6, 9} {
		e := encoder(t, deflate.Params{Variant: deflate.GNUGzip, Level: level})
		if !e.Equal(gzipBody(t, file, level), data) {
			t.Errorf("-%d differs", level)
		}
	}
}

func compare(t *testing.T, name string, e *deflate.Encoder, data, want []byte) {
	t.Helper()
	got, err := e.Compress(nil, data)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, want %d, equal until %d (%v)", name, len(got), len(want), common(got, want), err)
	}
	if !e.Equal(want, data) {
		t.Errorf("%s: not Equal", name)
	}
}

func compareZlib(t *testing.T, name string, e *deflate.Encoder, data, want []byte) {
	t.Helper()
	got, err := e.CompressZlib(nil, data)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, want %d, equal until %d (%v)", name, len(got), len(want), common(got, want), err)
	}
}

func common(a, b []byte) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// zlibProcess is a Python interpreter that compresses on request.
type zlibProcess struct {
	in  io.Writer
	out *bufio.Reader
}

const zlibScript = `
import sys, struct, time, zlib
assert zlib.ZLIB_RUNTIME_VERSION.startswith("1.2.13"), zlib.ZLIB_RUNTIME_VERSION
i, o = sys.stdin.buffer, sys.stdout.buffer
while True:
    h = i.read(20)
    if len(h) < 20: break
    level, mem, wbits, strategy, n = struct.unpack("<5I", h)
    data = i.read(n)
    start = time.process_time()
    c = zlib.compressobj(level, zlib.DEFLATED, wbits, mem, strategy)
    out = c.compress(data)
    out += c.flush()
    used = int((time.process_time() - start) * 1e9)
    o.write(struct.pack("<QI", used, len(out)) + out); o.flush()
`

func newZlib(tb testing.TB) *zlibProcess {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), "python3", "-c", zlibScript)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil && tb.Context().Err() == nil {
			tb.Error(err)
		}
	})
	return &zlibProcess{in, bufio.NewReader(out)}
}

// compress returns the stream with its zlib header and trailer.
func (z *zlibProcess) compress(tb testing.TB, data []byte, p deflate.Params) []byte {
	tb.Helper()
	out, _ := z.timed(tb, data, p)
	return out
}

// timed returns also the CPU time in nanoseconds.
func (z *zlibProcess) timed(tb testing.TB, data []byte, p deflate.Params) ([]byte, uint64) {
	tb.Helper()
	var req []byte
	for _, v := range []int{p.Level, p.MemLevel, p.WindowBits, p.Strategy, len(data)} {
		req = binary.LittleEndian.AppendUint32(req, uint32(v))
	}
	if _, err := z.in.Write(append(req, data...)); err != nil {
		tb.Fatal(err)
	}
	head := make([]byte, 12)
	if _, err := io.ReadFull(z.out, head); err != nil {
		tb.Fatal(err)
	}
	out := make([]byte, binary.LittleEndian.Uint32(head[8:]))
	if _, err := io.ReadFull(z.out, out); err != nil {
		tb.Fatal(err)
	}
	return out, binary.LittleEndian.Uint64(head)
}
