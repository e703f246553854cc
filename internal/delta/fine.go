package delta

import (
	"github.com/ltsp-fleet/ltsp-fleet/internal/match"
)

// minExact is the shortest equal stretch that becomes an operation of its own between patched ones: shorter ones cost less as
// predicted bytes of the patch.
const minExact = 256

// refBytes gives the reference's bytes and addresses for the offsets that a match index uses.
type refBytes interface {
	// bytes gives n bytes at off and their address.
	bytes(off int64, n int) (b []byte, addr int64)
}

// sliceRef is a reference of one part at one address.
type sliceRef struct {
	b    []byte
	addr int64
}

func (s sliceRef) bytes(off int64, n int) ([]byte, int64) {
	return s.b[off : off+int64(n)], s.addr + off
}

// fineOps turns what the matcher found into operations: equal stretches are told from those with differences.
func fineOps(ops []match.Op, data []byte, ref refBytes) []op {
	var out []op
	for _, m := range ops {
		if !m.Copy {
			out = appendLiteral(out, int64(m.Len))
			data = data[m.Len:]
			continue
		}
		b, addr := ref.bytes(m.Ref, m.Len)
		out = splitCopy(out, data[:m.Len], b, addr)
		data = data[m.Len:]
	}
	return out
}

// splitCopy appends the operations for data, which resembles ref at addr.
func splitCopy(out []op, data, ref []byte, addr int64) []op {
	start := 0 // of the patched stretch not yet written
	flush := func(end int) {
		if end > start {
			out = append(out, op{opPatched, int64(end - start), addr + int64(start)})
		}
	}
	for pos := 0; pos < len(data); {
		n := equalPrefix(data[pos:], ref[pos:])
		if n >= minExact || n == len(data) {
			flush(pos)
			out = append(out, op{opExact, int64(n), addr + int64(pos)})
			start = pos + n
		}
		for pos += n; pos < len(data) && data[pos] != ref[pos]; pos++ {
		}
	}
	flush(len(data))
	return out
}

// equalPrefix is the number of equal bytes at the start of two slices of the same length.
func equalPrefix(a, b []byte) int {
	n := 0
	for len(a)-n >= 16 && string(a[n:n+16]) == string(b[n:n+16]) {
		n += 16
	}
	for n < len(a) && a[n] == b[n] {
		n++
	}
	return n
}

// joinOps appends operations that make what follows; what goes on at the seam becomes one.
func joinOps(out, ops []op) []op {
	if k := len(out); k > 0 && len(ops) > 0 && ops[0].kind == out[k-1].kind && (ops[0].kind == opLiteral || ops[0].addr == out[k-1].addr+out[k-1].n) {
		out[k-1].n += ops[0].n
		ops = ops[1:]
	}
	return append(out, ops...)
}

// appendLiteral appends a literal of n bytes, joined with one before it.
func appendLiteral(ops []op, n int64) []op {
	if n == 0 {
		return ops
	}
	if k := len(ops); k > 0 && ops[k-1].kind == opLiteral {
		ops[k-1].n += n
		return ops
	}
	return append(ops, op{kind: opLiteral, n: n})
}
