package lzma

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// ErrFormat is matched by the errors for bytes that are not what they should be.
var ErrFormat = errors.New("malformed xz data")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// chunkHead is the head of an LZMA2 chunk.
type chunkHead struct {
	ctl   byte
	size  int // of the head
	data  int // bytes behind it
	plain int // bytes that it unpacks to
}

// readHead reads the head of the chunk at the start of b, which has all of the chunk.
func readHead(b []byte) (h chunkHead, err error) {
	if len(b) == 0 {
		return h, malformed("no end of an LZMA2 stream")
	}
	switch h.ctl = b[0]; {
	case h.ctl == ctlEnd:
		h.size = 1
		return h, nil
	case h.ctl >= ctlLZMA:
		h.size = lzmaHeader
		if h.ctl&ctlProperties != 0 {
			h.size += propertiesSize
		}
	case h.ctl <= ctlCopy:
		h.size = copyHeader
	default:
		return h, malformed("LZMA2 control byte %#x", h.ctl)
	}
	if len(b) < h.size {
		return h, malformed("LZMA2 chunk ends in its head")
	}
	h.plain = int(binary.BigEndian.Uint16(b[1:])) + 1
	h.data = h.plain
	if h.ctl >= ctlLZMA {
		h.plain += int(h.ctl&0x1f) << 16
		h.data = int(binary.BigEndian.Uint16(b[3:])) + 1
	}
	if len(b) < h.size+h.data {
		return h, malformed("LZMA2 chunk of %d bytes, have %d", h.size+h.data, len(b))
	}
	return h, nil
}

// walk returns the lengths of the LZMA2 stream at the start of b and of what it unpacks to.
func walk(b []byte) (size int, plain int64, err error) {
	for {
		h, err := readHead(b[size:])
		if err != nil {
			return 0, 0, err
		}
		size += h.size + h.data
		plain += int64(h.plain)
		if h.ctl == ctlEnd {
			return size, plain, nil
		}
	}
}

// DecodeLZMA2 appends to dst what the LZMA2 stream src unpacks to, at most n bytes. src has nothing behind the stream. Distances are
// bounded by the output alone, not by a dictionary size.
func DecodeLZMA2(dst, src []byte, n int) ([]byte, error) {
	size, plain, err := walk(src)
	switch {
	case err != nil:
		return nil, err
	case size != len(src):
		return nil, malformed("%d bytes behind an LZMA2 stream", len(src)-size)
	case plain > int64(n):
		return nil, malformed("LZMA2 stream of %d bytes, more than %d", plain, n)
	}
	at := len(dst)
	dst = slices.Grow(dst, int(plain))[:at+int(plain)]
	d := decoder{out: dst[at:]}
	if err := d.stream(src); err != nil {
		return nil, err
	}
	return dst, nil
}

// decoder unpacks one stream.
type decoder struct {
	model
	rangeDecoder
	lc, lp, pb int
	ready      bool // there are properties and a state
	began      bool // a chunk has told to forget what was unpacked

	out   []byte
	at    int // in out
	start int // what lies before is forgotten
	state uint8
	reps  [4]uint32
}

func (d *decoder) stream(src []byte) error {
	for {
		h, err := readHead(src)
		if err != nil || h.ctl == ctlEnd {
			return err
		}
		if h.ctl == ctlCopyReset || h.ctl >= ctlLZMA|ctlForget {
			d.start, d.began, d.ready = d.at, true, false
		}
		if !d.began {
			return malformed("LZMA2 stream begins with control byte %#x", h.ctl)
		}
		data := src[h.size : h.size+h.data]
		if h.ctl < ctlLZMA {
			d.at += copy(d.out[d.at:], data)
		} else {
			if err := d.prepare(h.ctl&ctlForget, src[h.size-1]); err != nil {
				return err
			}
			if !d.rangeDecoder.start(data) || !d.symbols(d.at+h.plain) || !d.finished() {
				return malformed("LZMA2 chunk for byte %d of the output", d.at)
			}
		}
		src = src[h.size+h.data:]
	}
}

// prepare does what the control byte of a chunk says.
func (d *decoder) prepare(reset, properties byte) error {
	if reset >= ctlProperties {
		p := int(properties)
		if p >= 9*5*5 {
			return malformed("LZMA2 properties %#x", properties)
		}
		d.lc, d.lp, d.pb = p%9, p/9%5, p/45
		if d.lc+d.lp > maxLiteralBits {
			return malformed("LZMA2 properties %#x", properties)
		}
		d.ready = true
	}
	if !d.ready {
		return malformed("LZMA2 chunk without properties")
	}
	if reset != 0 {
		d.model.reset(d.lc + d.lp)
		d.state, d.reps = 0, [4]uint32{}
	}
	return nil
}
