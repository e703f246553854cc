package squashfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// xzDecoder reads one xz stream of one block ("The .xz File Format", version 1.2.1), as mksquashfs and Linux use it: LZMA2 with an
// optional x86 branch filter before it. The container is taken apart here because the dictionary has to be limited to what a block
// needs, whatever the header asks for, and because the branch filter is needed. The index and footer behind the block are not read.
type xzDecoder struct{}

const (
	xzHeaderLen   = 12
	xzFilterX86   = 0x04
	xzFilterLZMA2 = 0x21
	xzMinDict     = 4 << 10
)

var errXZ = errors.New("bad xz header")

func (xzDecoder) decode(dst, src []byte) (int, error) {
	sum, sumLen, err := xzCheck(src)
	if err != nil {
		return 0, err
	}
	filters, dataAt, err := xzBlockHeader(src[xzHeaderLen:])
	if err != nil {
		return 0, err
	}
	body := src[xzHeaderLen+dataAt:]
	in := bytes.NewReader(body)
	lr, err := lzma.Reader2Config{DictCap: max(xzMinDict, len(dst))}.NewReader2(in)
	if err != nil {
		return 0, err
	}
	n, err := readAtMost(lr, dst)
	if err != nil {
		return n, err
	}
	if filters.x86 {
		unfilterX86(dst[:n])
	}
	if sum == nil {
		return n, nil
	}
	at := (len(body) - in.Len() + 3) &^ 3
	if at+sumLen > len(body) {
		return n, io.ErrUnexpectedEOF
	}
	sum.Write(dst[:n])
	if !bytes.Equal(xzSum(sum), body[at:at+sumLen]) {
		return n, errors.New("checksum of the xz block differs")
	}
	return n, nil
}

// xzCheck reads the stream header and gives the hash that guards the block; nil for a kind of check that is not known.
func xzCheck(src []byte) (hash.Hash, int, error) {
	if len(src) < xzHeaderLen+4 || string(src[:6]) != "\xfd7zXZ\x00" || src[6] != 0 || src[7] > 15 {
		return nil, 0, errXZ
	}
	if crc32.ChecksumIEEE(src[6:8]) != binary.LittleEndian.Uint32(src[8:]) {
		return nil, 0, errXZ
	}
	switch src[7] {
	case 1:
		return crc32.NewIEEE(), 4, nil
	case 4:
		return crc64.New(crc64.MakeTable(crc64.ECMA)), 8, nil
	case 10:
		return sha256.New(), 32, nil
	}
	return nil, 0, nil
}

// xzSum gives the sum in the byte order of the format: CRCs are little-endian there and big-endian in Go.
func xzSum(h hash.Hash) []byte {
	b := h.Sum(nil)
	if len(b) == sha256.Size {
		return b
	}
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return b
}

type xzFilters struct {
	x86 bool
}

// xzBlockHeader reads the block header at the start of b and gives its filters and its length.
func xzBlockHeader(b []byte) (xzFilters, int, error) {
	var f xzFilters
	n := (int(b[0]) + 1) * 4
	if b[0] == 0 || n > len(b) || n < 8 {
		return f, 0, errXZ
	}
	if crc32.ChecksumIEEE(b[:n-4]) != binary.LittleEndian.Uint32(b[n-4:]) {
		return f, 0, errXZ
	}
	flags, rest := b[1], b[2:n-4]
	for _, bit := range []byte{0x40, 0x80} { // compressed and uncompressed size: the image knows both
		if flags&bit == 0 {
			continue
		}
		_, k := binary.Uvarint(rest)
		if k <= 0 {
			return f, 0, errXZ
		}
		rest = rest[k:]
	}
	for i := byte(0); i <= flags&3; i++ {
		id, k := binary.Uvarint(rest)
		if k <= 0 {
			return f, 0, errXZ
		}
		size, k2 := binary.Uvarint(rest[k:])
		if k2 <= 0 || size > uint64(len(rest)-k-k2) {
			return f, 0, errXZ
		}
		rest = rest[k+k2+int(size):]
		last := i == flags&3
		switch {
		case last && id == xzFilterLZMA2:
		case !last && id == xzFilterX86 && size == 0:
			f.x86 = true
		default:
			return f, 0, &CompressorError{Name: fmt.Sprintf("xz with filter %#x", id)}
		}
	}
	return f, n, nil
}

// unfilterX86 turns the absolute targets of CALL and JMP instructions back into relative ones, in place. b starts at position 0 of
// the filtered stream. The filter is described in the xz sources (liblzma/simple/x86.c); mask remembers, bit by bit, which of the
// bytes before the current position looked like an opcode, so that encoder and decoder skip the same candidates.
func unfilterX86(b []byte) {
	allowed := [8]bool{true, true, true, false, true, false, false, false}
	bitNumber := [8]uint{0, 1, 2, 2, 3, 3, 3, 3}
	extends := func(x byte) bool { return x == 0 || x == 0xff }
	var mask uint32
	prev := -5
	for i := 0; i+5 <= len(b); {
		if b[i]&0xfe != 0xe8 {
			i++
			continue
		}
		if gap := i - prev; gap > 5 {
			mask = 0
		} else {
			for range gap {
				mask = (mask & 0x77) << 1
			}
		}
		prev = i
		top := b[i+4]
		if !extends(top) || !allowed[mask>>1&7] || mask>>1 >= 0x10 {
			i++
			mask |= 1
			if extends(top) {
				mask |= 0x10
			}
			continue
		}
		src := binary.LittleEndian.Uint32(b[i+1:])
		var dest uint32
		for {
			dest = src - uint32(i+5)
			if mask == 0 {
				break
			}
			bit := bitNumber[mask>>1&7] * 8
			if !extends(byte(dest >> (24 - bit))) {
				break
			}
			src = dest ^ (1<<(32-bit) - 1)
		}
		dest &= 0x1ffffff
		if dest&(1<<24) != 0 {
			dest |= 0xff000000
		}
		binary.LittleEndian.PutUint32(b[i+1:], dest)
		i += 5
		mask = 0
	}
}
