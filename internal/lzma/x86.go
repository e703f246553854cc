package lzma

import "encoding/binary"

const (
	opCall = 0xe8
	opJump = 0xe9
	x86Len = 5 // of such an instruction
)

// X86 makes relative targets of calls and jumps in b absolute, in place, or with encode = false relative again. It is xz's --x86 for
// the whole of b, which starts at position 0.
//
// What looks like an instruction may be part of another one. Therefore mask tells which of the last bytes looked like one, the latest
// in bit 0, and bit 4 and up whether their highest byte looked like a target's.
func X86(b []byte, encode bool) {
	last, mask := -x86Len, uint32(0)
	for i := 0; i <= len(b)-x86Len; {
		if b[i]&0xfe != opCall {
			i++
			continue
		}
		if i-last > x86Len {
			mask = 0
		} else {
			for range i - last {
				mask = mask & 0x77 << 1
			}
		}
		last = i
		if !near(b[i+4]) || mask>>1 >= 0x10 || !lone(mask>>1) {
			mask |= 1
			if near(b[i+4]) {
				mask |= 0x10
			}
			i++
			continue
		}
		convert(b[i+1:], uint32(i+x86Len), mask, encode)
		mask = 0
		i += x86Len
	}
}

// near tells whether the highest byte of a target is one of a target nearby.
func near(b byte) bool { return b == 0 || b == 0xff }

// lone tells whether at most one of three bytes is marked.
func lone(mask uint32) bool { return mask&7&(mask&7-1) == 0 }

// convert converts the target at the start of b. A target that overlaps marked bytes is converted so that the inverse is found again:
// as long as the byte where the marked one had its own highest byte looks like one.
func convert(b []byte, end, mask uint32, encode bool) {
	from := binary.LittleEndian.Uint32(b)
	if !encode {
		end = -end
	}
	to := from + end
	for mask != 0 {
		low := 24 - 8*markedByte(mask>>1)
		if !near(byte(to >> low)) {
			break
		}
		to = to ^ (1<<(low+8) - 1) + end
	}
	to &= 1<<25 - 1
	binary.LittleEndian.PutUint32(b, to|-(to>>24)<<24)
}

// markedByte returns how far from the end of a target the highest byte of the marked instruction is.
func markedByte(mask uint32) int {
	return [...]int{0, 1, 2, 2, 3}[min(mask, 4)]
}
