package mixcode

import (
	"bytes"
	"encoding/binary"
	"os"
	"strconv"
	"testing"
)

// TestRandomPatches codes random edits of programs, tables and unwind tables, with segments right and wrong. MIXCODE_ROUNDS asks for more.
func TestRandomPatches(t *testing.T) {
	rounds := 12
	if n, err := strconv.Atoi(os.Getenv("MIXCODE_ROUNDS")); err == nil {
		rounds = n
	}
	c := NewCoder()
	for round := range rounds {
		s := source(round)
		data, ref, segs := randomPatch(&s)
		code := c.EncodePatched(nil, data, ref, segs)
		if got, err := c.DecodePatched(nil, code, ref, segs); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("round %d: patched: %v", round, err)
		}
		var gaps []Gap
		for at := s.below(500); at < len(data); at += s.below(3000) {
			n := min(s.below(60), len(data)-at)
			gaps = append(gaps, Gap{at, n})
			at += n
		}
		primer := ref[:s.below(len(ref))]
		code = c.EncodeGaps(nil, data, gaps, primer)
		got := cut(data, gaps)
		if err := c.DecodeGaps(got, code, gaps, primer); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("round %d: gaps: %v", round, err)
		}
	}
}

// randomPatch makes a program with tables, and changes single bytes, numbers and the step of a table.
func randomPatch(s *source) (data, ref []byte, segs []Segment) {
	ref = program(*s, 500+s.below(20000))
	ref = append(ref, frameMagic+"0123\x40\x00\x00\x00"...)
	for i := range 128 {
		ref = binary.LittleEndian.AppendUint32(ref, uint32(i*40-len(ref)))
		ref = binary.LittleEndian.AppendUint64(ref, uint64(0x1000+i*24))
	}
	ref = append(ref, "\x14\x00\x00\x00\x00\x00\x00\x00\x01zR\x00"...)
	data = bytes.Clone(ref)
	for range s.below(400) {
		at := s.below(len(data))
		if s.below(3) == 0 || at+4 > len(data) {
			data[at] = byte(s.next())
			continue
		}
		v := binary.LittleEndian.Uint32(data[at:])
		binary.LittleEndian.PutUint32(data[at:], v+uint32(s.below(5)*0x30))
	}
	// A table that is out of step.
	if n := len(data); s.below(2) == 0 && n > 2000 {
		copy(data[n-1000:n-24], ref[n-1000+24:])
	}
	for at := 0; at < len(ref); {
		n := min(1+s.below(4000), len(ref)-at)
		segs = append(segs, Segment{Len: n, File: s.below(2), Ref: int64(at), New: int64(at + s.below(9)*16)})
		at += n
	}
	if s.below(5) == 0 {
		segs = segs[1:]
	}
	return data, ref, segs
}
