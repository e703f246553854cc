package lzma

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
)

// Info is what ParseXZ finds in an .xz stream.
type Info struct {
	Check Check
	X86   bool
	Sizes bool // the block header has the packed and the plain size
	// Header is the size of the block header in bytes; 0 when there is no block, as in the stream of nothing.
	Header int
	// Dict is the dictionary size, rounded up as the header has it.
	Dict uint32
	// LC, LP and PB are those of the first packed chunk; LC is -1 when there is none.
	LC, LP, PB int
	// Packed and Plain are the lengths of the block's LZMA2 stream and of what it unpacks to.
	Packed int
	Plain  int64
}

// maxHeader is the greatest size of a block header.
const maxHeader = 1024

// ParseXZ reads the .xz stream of at most one block at the start of b and returns its length n; there may be anything behind it. The
// filters are LZMA2 alone, or x86 from position 0 before it. Everything is checked that can be without unpacking.
func ParseXZ(b []byte) (info Info, n int, err error) {
	info.LC = -1
	if len(b) < xzHeader || string(b[:len(xzMagic)]) != xzMagic {
		return Info{}, 0, malformed("no xz stream")
	}
	flags := b[len(xzMagic) : len(xzMagic)+2]
	if !sealed(b[len(xzMagic):xzHeader]) || flags[0] != 0 || flags[1] > 15 {
		return Info{}, 0, malformed("xz stream header")
	}
	info.Check = Check(flags[1])
	checkSize, err := info.Check.size()
	if err != nil {
		return Info{}, 0, err
	}
	at := xzHeader
	var record []uint64
	if len(b) > at && b[at] != 0 {
		if err := info.block(b[at:]); err != nil {
			return Info{}, 0, err
		}
		end := info.Header + info.Packed
		at += end
		padded := at + -end&3
		if len(b) < padded+checkSize || !zero(b[at:padded]) {
			return Info{}, 0, malformed("xz block ends early or its padding is not zero")
		}
		record = []uint64{uint64(end + checkSize), uint64(info.Plain)}
		at = padded + checkSize
	}
	tail := appendIndex(nil, flags, record)
	if !bytes.HasPrefix(b[at:], tail) {
		return Info{}, 0, malformed("index and footer are not those of one block that was found")
	}
	return info, at + len(tail), nil
}

// sealed tells whether b ends with the CRC32 of what is before.
func sealed(b []byte) bool {
	n := len(b) - 4
	return binary.LittleEndian.Uint32(b[n:]) == crc32.ChecksumIEEE(b[:n])
}

func zero(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 })
}

// block reads the block at the start of b up to the end of its LZMA2 stream.
func (info *Info) block(b []byte) error {
	info.Header = (int(b[0]) + 1) * 4
	if len(b) < info.Header || !sealed(b[:info.Header]) {
		return malformed("xz block header")
	}
	sizes, err := info.header(b[1 : info.Header-4])
	if err != nil {
		return err
	}
	stream := b[info.Header:]
	if info.Packed, info.Plain, err = walk(stream); err != nil {
		return err
	}
	if info.Sizes && (sizes[0] != uint64(info.Packed) || sizes[1] != uint64(info.Plain)) {
		return malformed("xz block of %d bytes, %d unpacked, has other sizes in its header", info.Packed, info.Plain)
	}
	for at := 0; stream[at] != ctlEnd; {
		h, err := readHead(stream[at:])
		if err != nil {
			return err
		}
		if h.ctl >= ctlLZMA|ctlProperties {
			p := int(stream[at+h.size-1])
			info.LC, info.LP, info.PB = p%9, p/9%5, p/45
			break
		}
		at += h.size + h.data
	}
	return nil
}

// header reads a block header without its first byte and its check sum. Sizes are there both or not at all.
func (info *Info) header(b []byte) (sizes [2]uint64, err error) {
	flags := b[0]
	b = b[1:]
	switch flags &^ blockFilters {
	case 0:
	case blockPacked | blockPlain:
		info.Sizes = true
		for i := range sizes {
			v, n := binary.Uvarint(b)
			if n <= 0 {
				return sizes, malformed("size in an xz block header")
			}
			sizes[i], b = v, b[n:]
		}
	default:
		return sizes, malformed("xz block header with flags %#x", flags)
	}
	if flags&blockFilters == 1 && len(b) > 1 && b[0] == filterX86 && b[1] == 0 {
		info.X86 = true
		b = b[2:]
	} else if flags&blockFilters != 0 {
		return sizes, malformed("filters of an xz block")
	}
	if len(b) < 3 || b[0] != filterLZMA2 || b[1] != 1 || b[2] > 40 || !zero(b[3:]) {
		return sizes, malformed("filters of an xz block")
	}
	info.Dict = uint32(min(dictSize(b[2]), 1<<32-1))
	return sizes, nil
}

// DecodeXZ returns what the .xz stream at the start of b, as ParseXZ takes it, unpacks to, at most maxPlain bytes. The check sum is
// verified.
func DecodeXZ(b []byte, maxPlain int64) ([]byte, error) {
	info, n, err := ParseXZ(b)
	if err != nil {
		return nil, err
	}
	if info.Plain > maxPlain {
		return nil, malformed("xz stream of %d bytes, more than %d", info.Plain, maxPlain)
	}
	if info.Header == 0 {
		return []byte{}, nil
	}
	start := xzHeader + info.Header
	plain, err := DecodeLZMA2(nil, b[start:start+info.Packed], int(info.Plain))
	if err != nil {
		return nil, err
	}
	if info.X86 {
		X86(plain, false)
	}
	sum := info.Check.append(nil, plain)
	if at := start + info.Packed + -(info.Header+info.Packed)&3; !bytes.HasPrefix(b[at:n], sum) {
		return nil, malformed("check sum of an xz block")
	}
	return plain, nil
}
