package delta

import "encoding/binary"

// callDensity: literals with at least one call in so many bytes are taken for x86 code.
const callDensity = 160

// isCall tells whether the byte is an x86 call or jump with a 32-bit distance.
func isCall(c byte) bool { return c&0xfe == 0xe8 }

// isNear tells whether the distance of the call at b[i] is at most 16 MiB: others are probably no calls.
func isNear(b []byte, i int) bool { return b[i+4] == 0 || b[i+4] == 0xff }

// looksLikeCode tells whether turning distances into positions is likely to pay.
func looksLikeCode(b []byte) bool {
	n := 0
	for i := 0; i+5 <= len(b); i++ {
		if !isCall(b[i]) {
			continue
		}
		if isNear(b, i) {
			n++
		}
		i += 4
	}
	return n > 0 && len(b)/n < callDensity
}

// turnCalls replaces, in place, the distances in x86 calls and jumps by the positions in b that they lead to, modulo 2^25: the
// same function called from different places is then the same bytes. With back set it does the opposite.
func turnCalls(b []byte, back bool) {
	for i := 0; i+5 <= len(b); i++ {
		if !isCall(b[i]) {
			continue
		}
		if !isNear(b, i) {
			i += 4 // the distance must not change as a part of another one, or it would be read otherwise on the way back
			continue
		}
		v := binary.LittleEndian.Uint32(b[i+1:])
		if back {
			v -= uint32(i + 5)
		} else {
			v += uint32(i + 5)
		}
		v &= 1<<25 - 1
		v |= -(v >> 24) << 24
		binary.LittleEndian.PutUint32(b[i+1:], v)
		i += 4
	}
}
