package nested

import (
	"bytes"
	"strconv"
)

// The "newc" cpio format, Linux Documentation/driver-api/early-userspace/buffer-format.rst.
const (
	cpioHeader  = 110
	cpioTrailer = "TRAILER!!!"
)

func isCpio(b []byte) bool {
	return len(b) >= cpioHeader && (bytes.HasPrefix(b, []byte("070701")) || bytes.HasPrefix(b, []byte("070702")))
}

// initrd goes through the parts of an initramfs: cpio archives, plain or in gzip or xz, with zero bytes in between. It stops at anything
// else, for example a part compressed differently.
func (f *finder) initrd() {
	for offset := 0; offset < len(f.data); {
		rest := f.data[offset:]
		switch {
		case rest[0] == 0:
			offset += len(rest) - len(bytes.TrimLeft(rest, "\x00"))
		case isCpio(rest):
			n, ok := cpioLength(rest)
			if !ok {
				return
			}
			offset += n
		case isGzip(rest), isXZ(rest):
			open := f.gzip
			if isXZ(rest) {
				open = f.xz
			}
			end := open(offset)
			if end == offset {
				return
			}
			offset = end
		default:
			return
		}
	}
}

// cpioLength returns the length of the archive at the start of b up to the end of its trailer.
func cpioLength(b []byte) (int, bool) {
	for offset := 0; isCpio(b[offset:]); {
		nameSize, ok1 := hexField(b[offset+94:])
		fileSize, ok2 := hexField(b[offset+54:])
		nameEnd := offset + cpioHeader + nameSize
		next := align4(align4(nameEnd) + fileSize)
		if !ok1 || !ok2 || nameSize < 1 || nameEnd > len(b) {
			return 0, false
		}
		if string(b[offset+cpioHeader:nameEnd-1]) == cpioTrailer {
			return min(next, len(b)), true
		}
		if next > len(b) {
			return 0, false
		}
		offset = next
	}
	return 0, false
}

// hexField reads a field of eight hexadecimal digits.
func hexField(b []byte) (int, bool) {
	v, err := strconv.ParseUint(string(b[:8]), 16, 32)
	return int(v), err == nil
}

func align4(n int) int { return (n + 3) &^ 3 }
