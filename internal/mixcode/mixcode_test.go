package mixcode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew; published formats must not change")

// source gives the same numbers on every machine.
type source uint64

func (s *source) next() uint32 {
	*s = *s*6364136223846793005 + 1442695040888963407
	return uint32(*s >> 33)
}

func (s *source) below(n int) int { return int(s.next() % uint32(n)) }

// program makes n bytes that look like machine code with calls to a few functions.
func program(seed source, n int) []byte {
	s := seed
	out := make([]byte, 0, n+8)
	for len(out) < n {
		switch s.below(4) {
		case 0:
			target := s.below(64) * (n / 64)
			out = append(out, 0xe8)
			out = binary.LittleEndian.AppendUint32(out, uint32(target-len(out)-4))
		case 1:
			out = append(out, 0x48, 0x8b, byte(s.below(8)<<3|5))
			out = binary.LittleEndian.AppendUint32(out, uint32(n+s.below(64)*8-len(out)-4))
		case 2:
			out = append(out, 0x0f, 0x1f, 0x40, 0x00)
		default:
			out = append(out, 0x89, byte(s.next()), 0x31, byte(s.below(4)))
		}
	}
	return out[:n]
}

// patchedCase is a program whose second half was moved by some bytes: calls that cross the border change, and some other bytes.
func patchedCase() (data, ref []byte, segs []Segment) {
	const n, moved = 96 << 10, 0x40
	ref = program(7, n)
	table := make([]byte, 0, 1<<12)
	for i := range 256 {
		table = binary.LittleEndian.AppendUint64(table, uint64(0x1000+i*300))
		table = binary.LittleEndian.AppendUint64(table, 8)
	}
	ref = append(ref, table...)
	data = bytes.Clone(ref)
	shift := func(at int) int {
		if at >= n/2 {
			return moved
		}
		return 0
	}
	for i := 0; i+5 <= n; i++ {
		if ref[i] == 0xe8 && (ref[i+4] == 0 || ref[i+4] == 0xff) {
			v := int(int32(binary.LittleEndian.Uint32(ref[i+1:])))
			v += shift(i+5+v) - shift(i)
			binary.LittleEndian.PutUint32(data[i+1:], uint32(v))
			i += 4
		}
	}
	for i := n; i < len(ref); i += 16 {
		v := binary.LittleEndian.Uint64(ref[i:])
		binary.LittleEndian.PutUint64(data[i:], v+uint64(shift(int(v))))
	}
	s := source(13)
	for range 150 {
		data[s.below(len(data))] += byte(s.next())
	}
	return data, ref, []Segment{{Len: n / 2}, {Len: len(ref) - n/2, Ref: n / 2, New: n/2 + moved}}
}

func text(n int) []byte {
	words := []string{"the ", "perl ", "module ", "version ", "fixes ", "a ", "buffer ", "overflow ", "in ", "CVE-2026-", "\n  * "}
	s := source(3)
	var out []byte
	for len(out) < n {
		out = append(out, words[s.below(len(words))]...)
	}
	return out[:n]
}

func numbers(n int) []uint64 {
	s := source(11)
	v := make([]uint64, n)
	for i := range v {
		v[i] = uint64(s.next()) >> s.below(32)
		if i%3 == 0 {
			v[i] = 24
		}
	}
	v[0] = 1<<64 - 1
	return v
}

func TestPatchedIsItsOwnInverse(t *testing.T) {
	data, ref, segs := patchedCase()
	s := source(5)
	noise := make([]byte, 5000)
	for i := range noise {
		noise[i] = byte(s.next())
	}
	zeros := make([]byte, len(noise))
	tests := []struct {
		name      string
		data, ref []byte
		segs      []Segment
		limit     int // bytes of code
	}{
		{"nothing", nil, nil, nil, 0},
		{"one equal byte", []byte{1}, []byte{1}, nil, 1},
		{"one other byte", []byte{9}, []byte{1}, nil, 4},
		{"all equal", ref, ref, nil, 60},
		{"program", data, ref, segs, len(ref) / 80},
		{"program without addresses", data, ref, nil, len(ref) / 50},
		{"segments that do not add up", data, ref, segs[:1], len(ref) / 50},
		{"noise", noise, zeros, nil, len(noise) * 21 / 20},
		{"empty segments", data, ref, append([]Segment{{}, {File: 3}}, segs...), len(ref) / 50},
	}
	c := NewCoder()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code := c.EncodePatched([]byte("before"), tt.data, tt.ref, tt.segs)
			if !bytes.HasPrefix(code, []byte("before")) {
				t.Fatal("the bytes in front of the code were changed")
			}
			code = code[6:]
			if len(code) > tt.limit {
				t.Errorf("code has %d bytes, want at most %d", len(code), tt.limit)
			}
			got, err := c.DecodePatched([]byte("x"), code, tt.ref, tt.segs)
			if err != nil || !bytes.Equal(got[1:], tt.data) {
				t.Fatalf("DecodePatched: %d bytes, %v", len(got), err)
			}
		})
	}
}

func TestBytesAreTheirOwnInverse(t *testing.T) {
	long := text(30000)
	tests := []struct {
		name         string
		data, primer []byte
		limit        int
	}{
		{"nothing", nil, nil, 0},
		{"one", []byte{200}, nil, 3},
		{"text", long, nil, len(long) / 6},
		{"text that the primer has", long, long, len(long) / 200},
		{"program", program(7, 30000), nil, 15000},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code := EncodeBytes(nil, tt.data, tt.primer)
			if len(code) > tt.limit {
				t.Errorf("code has %d bytes, want at most %d", len(code), tt.limit)
			}
			got, err := DecodeBytes([]byte("x"), code, len(tt.data), tt.primer)
			if err != nil || !bytes.Equal(got[1:], tt.data) {
				t.Fatalf("DecodeBytes: %d bytes, %v", len(got), err)
			}
		})
	}
}

func gapsCase() (content []byte, gaps []Gap) {
	content = text(40000)
	return content, []Gap{{0, 40}, {100, 0}, {3000, 700}, {9000, 1}, {39000, 1000}}
}

func cut(content []byte, gaps []Gap) []byte {
	out := bytes.Clone(content)
	for _, g := range gaps {
		for i := range g.Len {
			out[g.Start+i] = 0xAA
		}
	}
	return out
}

func TestGapsAreFilledFromTheirSurroundings(t *testing.T) {
	c := NewCoder()
	content, gaps := gapsCase()
	before := bytes.Clone(content)
	code := c.EncodeGaps(nil, content, gaps, nil)
	if !bytes.Equal(content, before) {
		t.Error("EncodeGaps changed its input")
	}
	got := cut(content, gaps)
	if err := c.DecodeGaps(got, code, gaps, nil); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("DecodeGaps: %v", err)
	}
	var alone []byte
	for _, g := range gaps {
		alone = append(alone, content[g.Start:][:g.Len]...)
	}
	if n := len(EncodeBytes(nil, alone, nil)); len(code) >= n {
		t.Errorf("gaps take %d bytes, without their surroundings %d", len(code), n)
	}
	for _, bad := range [][]Gap{{{-1, 2}}, {{0, -1}}, {{0, 40001}}, {{5, 5}, {9, 1}}, {{1, 1 << 62}, {2, 1 << 62}}} {
		if err := c.DecodeGaps(got, code, bad, nil); err == nil {
			t.Errorf("gaps %v were accepted", bad)
		}
	}
}

func TestIntsAreTheirOwnInverse(t *testing.T) {
	for _, v := range [][]uint64{{}, {0}, {1<<64 - 1}, numbers(500)} {
		code := append(EncodeInts(nil, v), "rest"...)
		got, rest, err := DecodeInts(code, len(v))
		if err != nil || string(rest) != "rest" {
			t.Fatalf("DecodeInts: rest %q, %v", rest, err)
		}
		if diff := cmp.Diff(v, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestDamagedStreamsAreErrors(t *testing.T) {
	data, ref, segs := patchedCase()
	c := NewCoder()
	patched := c.EncodePatched(nil, data, ref, segs)
	literal := EncodeBytes(nil, program(1, 5000), nil)
	ints := EncodeInts(nil, numbers(500))
	decoders := map[string]func([]byte) error{
		"patched": func(b []byte) error { _, err := c.DecodePatched(nil, b, ref, segs); return err },
		"bytes":   func(b []byte) error { _, err := DecodeBytes(nil, b, 5000, nil); return err },
		"ints":    func(b []byte) error { _, _, err := DecodeInts(b, 500); return err },
	}
	for name, code := range map[string][]byte{"patched": patched, "bytes": literal, "ints": ints} {
		t.Run(name, func(t *testing.T) {
			decode := decoders[name]
			if err := decode(code); err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{0, 1, len(code) / 3, len(code) / 2, len(code) - 20} {
				if err := decode(code[:n]); err != nil && !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrTrailing) {
					t.Errorf("%d of %d bytes: %v", n, len(code), err)
				}
			}
			if err := decode(code[:len(code)/3]); err == nil && name != "patched" {
				t.Error("a third of the stream is accepted")
			}
			if name != "ints" {
				if err := decode(append(bytes.Clone(code), make([]byte, 20)...)); !errors.Is(err, ErrTrailing) {
					t.Errorf("bytes behind the stream: %v", err)
				}
			}
		})
	}
	if _, err := DecodeBytes(nil, literal, -1, nil); err == nil {
		t.Error("a negative length was accepted")
	}
}

// TestFormatIsFrozen compares with streams of version 1: they decode, and encoding gives the same bytes.
func TestFormatIsFrozen(t *testing.T) {
	data, ref, segs := patchedCase()
	content, gaps := gapsCase()
	c := NewCoder()
	codes := map[string][]byte{
		"patched.v1":     c.EncodePatched(nil, data, ref, segs),
		"patched-nil.v1": c.EncodePatched(nil, data, ref, nil),
		"bytes.v1":       c.EncodeBytes(nil, text(20000), program(1, 3000)),
		"gaps.v1":        c.EncodeGaps(nil, content, gaps, program(1, 3000)),
		"ints.v1":        c.EncodeInts(nil, numbers(1000)),
	}
	for name, code := range codes {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, code, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(code, want) {
			t.Errorf("%s: encoding gives other bytes than it did", name)
		}
		codes[name] = want
	}
	if got, err := c.DecodePatched(nil, codes["patched.v1"], ref, segs); err != nil || !bytes.Equal(got, data) {
		t.Errorf("patched.v1: %v", err)
	}
	if got, err := c.DecodePatched(nil, codes["patched-nil.v1"], ref, nil); err != nil || !bytes.Equal(got, data) {
		t.Errorf("patched-nil.v1: %v", err)
	}
	if got, err := c.DecodeBytes(nil, codes["bytes.v1"], 20000, program(1, 3000)); err != nil || !bytes.Equal(got, text(20000)) {
		t.Errorf("bytes.v1: %v", err)
	}
	got := cut(content, gaps)
	if err := c.DecodeGaps(got, codes["gaps.v1"], gaps, program(1, 3000)); err != nil || !bytes.Equal(got, content) {
		t.Errorf("gaps.v1: %v", err)
	}
	if got, _, err := c.DecodeInts(codes["ints.v1"], 1000); err != nil || !cmp.Equal(got, numbers(1000)) {
		t.Errorf("ints.v1: %v", err)
	}
}

// TestUsedCoderGivesTheSame makes sure that nothing stays in a coder, and that it needs no memory once it has some.
func TestUsedCoderGivesTheSame(t *testing.T) {
	data, ref, segs := patchedCase()
	content, gaps := gapsCase()
	c := NewCoder()
	first := c.EncodePatched(nil, data, ref, segs)
	firstGaps := c.EncodeGaps(nil, content, gaps, nil)
	c.EncodePatched(nil, ref, data, nil)
	c.EncodeBytes(nil, program(2, 9000), nil)
	if !bytes.Equal(first, c.EncodePatched(nil, data, ref, segs)) || !bytes.Equal(firstGaps, c.EncodeGaps(nil, content, gaps, nil)) {
		t.Error("a used coder gives other bytes than a new one")
	}
	room := make([]byte, 0, len(content)+len(data))
	if n := testing.AllocsPerRun(3, func() {
		_, _ = c.DecodePatched(room[:0], first, ref, segs)
		_ = c.DecodeGaps(room[:len(content)], firstGaps, gaps, nil)
	}); n > 0 {
		t.Errorf("decoding allocates %v times", n)
	}
}

func TestHistoriesFitAByte(t *testing.T) {
	h := newHistories()
	if h.used > maxHistories {
		t.Fatalf("%d states", h.used)
	}
	for i := range h.used {
		if h.n[h.next[i][1]][1] == 0 || h.n[h.next[i][0]][0] == 0 {
			t.Errorf("state %d forgets the bit that it was just told", i)
		}
	}
}

func TestTablesAreMonotonous(t *testing.T) {
	e := newTables()
	if got := e.squash[logitMax]; got != 32768 {
		t.Errorf("squash(0) = %d", got)
	}
	if got := e.squash[logitMax+256]; got != 47911 && got != 47910 { // 65536/(1+1/e)
		t.Errorf("squash(1) = %d", got)
	}
	for i := 1; i <= 2*logitMax; i++ {
		if e.squash[i] < e.squash[i-1] {
			t.Fatalf("squash falls at %d", i)
		}
	}
	for i := 1; i < len(e.stretch); i++ {
		if e.stretch[i] < e.stretch[i-1] {
			t.Fatalf("stretch falls at %d", i)
		}
	}
}
