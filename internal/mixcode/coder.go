package mixcode

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
)

// A Coder holds the memory of the models, to be used again; results do not depend on what it coded before. One goroutine at a time uses it.
type Coder struct {
	env     *environment
	rc      rangeCoder
	literal literalModel
	patched patchedModel
	ints    intModel
}

// NewCoder makes a Coder; its memory grows on use, to at most 20 MiB
// plus the bytes of the largest input and primer.
func NewCoder() *Coder { return &Coder{env: shared()} }

var shared = sync.OnceValue(newEnvironment)

// EncodeBytes appends the code of data to dst. primer are bytes that the decoder has too, and that data resembles; nil is none.
func (c *Coder) EncodeBytes(dst, data, primer []byte) []byte {
	return c.EncodeGaps(dst, data, []Gap{{0, len(data)}}, primer)
}

// DecodeBytes appends the n bytes coded in src to dst.
func (c *Coder) DecodeBytes(dst, src []byte, n int, primer []byte) ([]byte, error) {
	if n < 0 {
		return dst, fmt.Errorf("decode %d bytes: negative length", n)
	}
	at := len(dst)
	dst = slices.Grow(dst, n)[:at+n]
	if err := c.DecodeGaps(dst[at:], src, []Gap{{0, n}}, primer); err != nil {
		return dst[:at], err
	}
	return dst, nil
}

// EncodeGaps appends the code of the bytes of content in gaps to dst; the others are known to the decoder and help to guess them. Gaps are
// in order and disjoint; others are not coded, and DecodeGaps refuses them.
func (c *Coder) EncodeGaps(dst, content []byte, gaps []Gap, primer []byte) []byte {
	c.rc.encodeTo(dst)
	_ = c.gaps(content, gaps, primer) // wrong gaps are refused by the decoder
	return c.rc.finish()
}

// DecodeGaps fills the gaps of content, whose bytes there do not matter. After an error the gaps hold anything.
func (c *Coder) DecodeGaps(content, src []byte, gaps []Gap, primer []byte) error {
	c.rc.decodeFrom(src)
	if err := c.gaps(content, gaps, primer); err != nil {
		return err
	}
	return c.rc.finishDecoding()
}

func (c *Coder) gaps(content []byte, gaps []Gap, primer []byte) error {
	n, at := 0, 0
	for _, g := range gaps {
		if g.Start < at || g.Len < 0 || g.Len > len(content)-g.Start {
			return fmt.Errorf("gap of %d bytes at %d of %d: out of order or bounds", g.Len, g.Start, len(content))
		}
		at = g.Start + g.Len
		n += g.Len
	}
	if n == 0 {
		return nil
	}
	m := &c.literal
	m.start(c.env, content, gaps, n, primer)
	for _, g := range gaps {
		m.enter(len(primer) + g.Start)
		for i := g.Start; i < g.Start+g.Len; i++ {
			content[i] = m.next(&c.rc, content[i])
			if c.rc.overrun() {
				return ErrTruncated
			}
		}
	}
	return nil
}

// EncodeInts appends the code of v to dst, which holds its own length in bytes. It learns from the four numbers before each, so that columns
// of like numbers, or tuples of up to three, are best.
func (c *Coder) EncodeInts(dst []byte, v []uint64) []byte {
	c.rc.encodeTo(nil)
	c.ints.start(c.env, len(v))
	for _, x := range v {
		c.ints.next(&c.rc, x)
	}
	code := c.rc.finish()
	dst = binary.AppendUvarint(dst, uint64(len(code)))
	return append(dst, code...)
}

// DecodeInts decodes the n values in front of src and gives what follows them.
func (c *Coder) DecodeInts(src []byte, n int) (v []uint64, rest []byte, err error) {
	size, k := binary.Uvarint(src)
	if n < 0 || k <= 0 || size > uint64(len(src)-k) {
		return nil, src, ErrTruncated
	}
	c.rc.decodeFrom(src[k : k+int(size)])
	c.ints.start(c.env, n)
	v = make([]uint64, 0, n)
	for range n {
		v = append(v, c.ints.next(&c.rc, 0))
		if c.rc.overrun() {
			return nil, src, ErrTruncated
		}
	}
	return v, src[k+int(size):], c.rc.finishDecoding()
}

// EncodePatched appends the code of data to dst; ref are the old bytes at the same places, as many. segs tell where they lie, in order;
// when they do not add up to len(ref), as nil does not, all is taken for one stretch that was not moved.
func (c *Coder) EncodePatched(dst, data, ref []byte, segs []Segment) []byte {
	c.rc.encodeTo(dst)
	_ = c.patched.run(c.env, &c.rc, data, ref, segs) // only decoding can go wrong
	return c.rc.finish()
}

// DecodePatched appends the len(ref) bytes coded in src to dst; ref and segs are those given to EncodePatched.
func (c *Coder) DecodePatched(dst, src, ref []byte, segs []Segment) ([]byte, error) {
	c.rc.decodeFrom(src)
	at := len(dst)
	dst = slices.Grow(dst, len(ref))[:at+len(ref)]
	if err := c.patched.run(c.env, &c.rc, dst[at:], ref, segs); err != nil {
		return dst[:at], err
	}
	return dst, c.rc.finishDecoding()
}
