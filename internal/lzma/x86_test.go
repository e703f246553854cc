package lzma_test

import (
	"bytes"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/lzma"
)

// calls is a dense mix of the bytes that matter to the x86 filter.
func calls(n int) []byte {
	r, b := source(8), random(n)
	for i := range b {
		if k := r.IntN(9); k < 8 {
			b[i] = []byte{0xe8, 0xe9, 0, 0xff, 0, 0xff, 0xe8, 1}[k]
		}
	}
	return b
}

func TestX86(t *testing.T) {
	for name, c := range map[string]struct{ plain, filtered string }{
		"call":          {"\xe8\x00\x00\x00\x00", "\xe8\x05\x00\x00\x00"},
		"jump back":     {"ab\xe9\xf9\xff\xff\xff", "ab\xe9\x00\x00\x00\x00"},
		"far":           {"\xe8\x00\x00\x00\x01", "\xe8\x00\x00\x00\x01"},
		"cut":           {"\xe8\x00\x00\x00", "\xe8\x00\x00\x00"},
		"two":           {"\xe8\x00\x00\x00\x00\xe8\x00\x00\x00\x00", "\xe8\x05\x00\x00\x00\xe8\x0a\x00\x00\x00"},
		"beyond 24 bit": {"\xe8\xff\xff\xff\x00", "\xe8\x04\x00\x00\xff"},
	} {
		b := []byte(c.plain)
		if lzma.X86(b, true); string(b) != c.filtered {
			t.Errorf("%s: %x, want %x", name, b, c.filtered)
		}
		if lzma.X86(b, false); string(b) != c.plain {
			t.Errorf("%s: back to %x", name, b)
		}
	}
	for _, s := range append(samples, sample{"calls", calls}) {
		for _, n := range []int{0, 1, 4, 5, 6, 100, 100_000} {
			data := s.make(n)
			b := bytes.Clone(data)
			lzma.X86(b, true)
			changed := !bytes.Equal(b, data)
			lzma.X86(b, false)
			if !bytes.Equal(b, data) {
				t.Errorf("%s %d does not come back", s.name, n)
			}
			if s.name == "calls" && n > 100 && !changed {
				t.Errorf("%s %d is not changed", s.name, n)
			}
		}
	}
}
