package match

const (
	// bridgeOps is how many ops back bridge looks for the same alignment.
	bridgeOps = 4
	// bridgeLen is how many bytes may lie between.
	bridgeLen = 256
)

// bridge joins copies on one alignment where that costs less than the ops in between.
func (ix *Index) bridge(ops []Op, data []byte) []Op {
	out := ops[:0]
	at := 0 // data offset of op
	for _, op := range ops {
		if n := ix.joinable(out, op, data[:at]); n > 0 {
			keep := &out[len(out)-n]
			keep.Len = int(op.Ref-keep.Ref) + op.Len
			out = out[:len(out)-n+1]
		} else {
			out = append(out, op)
		}
		at += op.Len
	}
	return out
}

// joinable returns how many of the last ops, which end with data, should become one copy with op; 0 for none.
func (ix *Index) joinable(ops []Op, op Op, data []byte) int {
	if !op.Copy {
		return 0
	}
	gap := 0
	for n := 1; n <= bridgeOps && n <= len(ops) && gap <= bridgeLen; n++ {
		a := ops[len(ops)-n]
		if a.Copy && a.Ref+int64(a.Len+gap) == op.Ref && ix.ref.part(a.Ref) == ix.ref.part(op.Ref) {
			if ix.joinPays(ops[len(ops)-n+1:], a, op, data[len(data)-gap:]) {
				return n
			}
			return 0
		}
		gap += a.Len
	}
	return 0
}

// joinPays compares the price of the ops between a and b, which produce gap, with that of one copy over all.
func (ix *Index) joinPays(between []Op, a, b Op, gap []byte) bool {
	end := a.Ref + int64(a.Len)
	apart := meter{ref: ix.ref, next: end}
	var price int64
	for _, op := range between {
		price += apart.add(op, gap)
	}
	price += opPrice + addressPrice(b.Ref-apart.next)
	if len(gap) == 0 {
		return true
	}
	return diffCost(gap, ix.ref.bytes(Op{Ref: end, Len: len(gap)})) <= price
}
