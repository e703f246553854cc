package lzma

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"slices"
)

// Check is the kind of check sum of the unpacked bytes.
type Check uint8

// The checks, with the file format's numbers.
const (
	CheckNone   Check = 0
	CheckCRC32  Check = 1
	CheckCRC64  Check = 4
	CheckSHA256 Check = 10
)

const (
	xzMagic  = "\xfd7zXZ\x00"
	endMagic = "YZ"
	xzHeader = 12 // and the size of the footer

	filterX86   = 0x04
	filterLZMA2 = 0x21

	blockFilters = 0x03 // in the block header's flags: number of filters - 1
	blockPacked  = 0x40 // the packed size is there
	blockPlain   = 0x80 // the plain size is there
)

var crc64Table = crc64.MakeTable(crc64.ECMA)

// size returns the number of bytes of a check sum.
func (c Check) size() (int, error) {
	switch c {
	case CheckNone:
		return 0, nil
	case CheckCRC32:
		return 4, nil
	case CheckCRC64:
		return 8, nil
	case CheckSHA256:
		return sha256.Size, nil
	}
	return 0, malformed("check of kind %d", uint8(c))
}

// append appends the check sum of b.
func (c Check) append(dst, b []byte) []byte {
	switch c {
	case CheckCRC32:
		return binary.LittleEndian.AppendUint32(dst, crc32.ChecksumIEEE(b))
	case CheckCRC64:
		return binary.LittleEndian.AppendUint64(dst, crc64.Checksum(b, crc64Table))
	case CheckSHA256:
		sum := sha256.Sum256(b)
		return append(dst, sum[:]...)
	}
	return dst
}

// Stream says how AppendXZ makes an .xz stream of one block.
type Stream struct {
	Check  Check
	X86    bool // the x86 filter, from position 0
	Params Params
	// Sizes tells that the block header has the packed and the plain size, as with more than one thread.
	Sizes bool
	// Header is the size of the block header, a multiple of 4; 0 is the least possible. Only with Sizes it may be greater than that.
	Header int
}

// AppendXZ appends the .xz stream that xz, with one thread, makes of plain. Use Encoder.AppendXZ for more than one.
func AppendXZ(dst []byte, s Stream, plain []byte) ([]byte, error) {
	var e Encoder
	defer e.Close()
	return e.AppendXZ(dst, s, plain)
}

// AppendXZ is AppendXZ with an encoder, which is reset for s.Params. With s.X86, it takes memory for a copy of plain.
func (e *Encoder) AppendXZ(dst []byte, s Stream, plain []byte) ([]byte, error) {
	if err := e.Reset(s.Params); err != nil {
		return nil, err
	}
	checkSize, err := s.Check.size()
	if err != nil {
		return nil, err
	}
	if s.Header%4 != 0 || s.Header > maxHeader {
		return nil, fmt.Errorf("%w: block header of %d bytes", ErrParams, s.Header)
	}
	flags := []byte{0, byte(s.Check)}
	dst = append(dst, xzMagic...)
	dst = append(dst, flags...)
	dst = binary.LittleEndian.AppendUint32(dst, crc32.ChecksumIEEE(flags))
	if len(plain) == 0 {
		return appendIndex(dst, flags, nil), nil
	}
	filtered := plain
	if s.X86 {
		filtered = bytes.Clone(plain)
		X86(filtered, true)
	}
	start := len(dst)
	dst = s.appendHeader(dst, 0, 0) // keeps the place
	room := len(dst) - start
	if dst, err = e.AppendLZMA2(dst, filtered); err != nil {
		return nil, err
	}
	packed := len(dst) - start - room
	header := s.appendHeader(nil, uint64(packed), uint64(len(plain)))
	if s.Header != 0 && len(header) != s.Header {
		return nil, fmt.Errorf("%w: block header of %d bytes, not %d", ErrParams, len(header), s.Header)
	}
	dst = slices.Replace(dst, start, start+room, header...)
	dst = pad(dst, packed)
	dst = s.Check.append(dst, plain)
	return appendIndex(dst, flags, []uint64{uint64(len(header) + packed + checkSize), uint64(len(plain))}), nil
}

// appendHeader appends the block header.
func (s Stream) appendHeader(dst []byte, packed, plain uint64) []byte {
	start := len(dst)
	flags := byte(0)
	if s.X86 {
		flags |= 1
	}
	if s.Sizes {
		flags |= blockPacked | blockPlain
	}
	dst = append(dst, 0, flags)
	if s.Sizes {
		dst = binary.AppendUvarint(dst, packed)
		dst = binary.AppendUvarint(dst, plain)
	}
	if s.X86 {
		dst = append(dst, filterX86, 0)
	}
	dst = append(dst, filterLZMA2, 1, dictByte(s.Params.Dict))
	dst = pad(dst, len(dst)-start)
	if room := s.Header - 4 - (len(dst) - start); room > 0 {
		dst = append(dst, make([]byte, room)...)
	}
	dst[start] = byte((len(dst) - start) / 4)
	return binary.LittleEndian.AppendUint32(dst, crc32.ChecksumIEEE(dst[start:]))
}

// pad appends zeros to something of that size up to a multiple of four.
func pad(dst []byte, size int) []byte {
	return append(dst, make([]byte, -size&3)...)
}

// appendIndex appends the index with that record, if any, and the footer.
func appendIndex(dst, flags []byte, record []uint64) []byte {
	start := len(dst)
	dst = append(dst, 0, byte(len(record)/2))
	for _, v := range record {
		dst = binary.AppendUvarint(dst, v)
	}
	dst = pad(dst, len(dst)-start)
	dst = binary.LittleEndian.AppendUint32(dst, crc32.ChecksumIEEE(dst[start:]))
	footer := binary.LittleEndian.AppendUint32(nil, uint32((len(dst)-start)/4-1))
	footer = append(footer, flags...)
	dst = binary.LittleEndian.AppendUint32(dst, crc32.ChecksumIEEE(footer))
	dst = append(dst, footer...)
	return append(dst, endMagic...)
}

// dictByte returns the byte for the least size of the form 2^n or 2^n+2^(n-1) that is not less than dict.
func dictByte(dict uint32) byte {
	b := byte(0)
	for dictSize(b) < uint64(dict) {
		b++
	}
	return b
}

func dictSize(b byte) uint64 { return uint64(2|b&1) << (b/2 + 11) }
