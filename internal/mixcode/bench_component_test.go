//go:build component

package mixcode

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// BenchmarkPairs compares with xz and zstd on streams of a binary differ: each folder under $MIXCODE_PAIRS has the files data and ref
// (patched bytes of the new and the old version), diff (their difference), extra, ctrl (triples of 64-bit numbers, sign in the top bit) and
// segs (four 64-bit numbers for each segment: length, file, old and new offset).
func BenchmarkPairs(b *testing.B) {
	dirs, err := filepath.Glob(filepath.Join(os.Getenv("MIXCODE_PAIRS"), "*", "segs"))
	if err != nil || len(dirs) == 0 || os.Getenv("MIXCODE_PAIRS") == "" {
		b.Fatal("MIXCODE_PAIRS names no folder of pairs")
	}
	for b.Loop() {
		var ours, xz, zstd, raw int
		c := NewCoder()
		for _, segs := range dirs {
			p := readPair(b, filepath.Dir(segs))
			ours += len(c.EncodeBytes(nil, p.extra, nil)) + len(c.EncodeInts(nil, p.ops)) + p.patched(b, c)
			raw += len(p.data)
			for _, name := range []string{"diff", "extra", "ctrl"} {
				path := filepath.Join(filepath.Dir(segs), name)
				xz += compressed(b, "xz", "-9e", "-k", "-c", path)
				zstd += compressed(b, "zstd", "-q", "-19", "-k", "-c", path)
			}
		}
		b.ReportMetric(float64(ours), "B")
		b.ReportMetric(float64(xz), "xz-B")
		b.ReportMetric(float64(zstd), "zstd-B")
		b.ReportMetric(float64(ours)/float64(xz), "of-xz")
		b.SetBytes(int64(raw))
	}
}

type pair struct {
	data, ref, extra []byte
	ops              []uint64
	segs             []Segment
}

func readPair(b *testing.B, dir string) pair {
	b.Helper()
	read := func(name string) []byte {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			b.Fatal(err)
		}
		return content
	}
	p := pair{data: read("data"), ref: read("ref"), extra: read("extra")}
	for raw := read("ctrl"); len(raw) >= 8; raw = raw[8:] {
		v := binary.LittleEndian.Uint64(raw)
		p.ops = append(p.ops, v<<1|v>>63)
	}
	for raw := read("segs"); len(raw) >= 32; raw = raw[32:] {
		n := func(i int) int64 { return int64(binary.LittleEndian.Uint64(raw[8*i:])) }
		p.segs = append(p.segs, Segment{Len: int(n(0)), File: int(n(1)), Ref: n(2), New: n(3)})
	}
	return p
}

// patched codes groups of 4 MiB, as a delta does, decodes them again, and gives the bytes that they take.
func (p pair) patched(b *testing.B, c *Coder) (size int) {
	b.Helper()
	segs := p.segs
	for at := 0; at < len(p.data); {
		n := min(4<<20, len(p.data)-at)
		var part []Segment
		for need := n; need > 0; {
			s := segs[0]
			if s.Len <= need {
				segs = segs[1:]
			} else {
				s.Len = need
				segs[0].Len -= need
				segs[0].Ref += int64(need)
				segs[0].New += int64(need)
			}
			part = append(part, s)
			need -= s.Len
		}
		code := c.EncodePatched(nil, p.data[at:at+n], p.ref[at:at+n], part)
		if got, err := c.DecodePatched(nil, code, p.ref[at:at+n], part); err != nil || !bytes.Equal(got, p.data[at:at+n]) {
			b.Fatalf("group at %d does not come back: %v", at, err)
		}
		size += len(code)
		at += n
	}
	return size
}

func compressed(b *testing.B, name string, arg ...string) int {
	b.Helper()
	out, err := exec.Command(name, arg...).Output()
	if err != nil {
		b.Fatal(fmt.Errorf("%s: %w", name, err))
	}
	return len(out)
}
