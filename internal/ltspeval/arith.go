package ltspeval

import (
	"math"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// arithmetic evaluates $((...)) in 64 bits. ok is false for what a shell refuses, such as a division by zero.
func (r *run) arithmetic(x syntax.ArithmExpr, f frame) (n int64, ok bool) {
	if !r.step(1) {
		return 0, false
	}
	if r.depth++; r.depth > 10*r.limits.Depth {
		r.limit("an arithmetic expression nests too deep")
		return 0, false
	}
	defer func() { r.depth-- }()
	switch x := x.(type) {
	case nil:
		return 0, true
	case *syntax.Word:
		return r.number(r.literal(x, f))
	case *syntax.ParenArithm:
		return r.arithmetic(x.X, f)
	case *syntax.UnaryArithm:
		return r.unary(x, f)
	case *syntax.BinaryArithm:
		return r.binaryArithmetic(x, f)
	}
	return 0, false
}

// number reads an operand: a number, or a variable that holds one.
func (r *run) number(s string) (int64, bool) {
	s = strings.TrimSpace(s)
	if syntax.ValidName(s) {
		v, _ := r.get(s)
		if s = strings.TrimSpace(v); s == "" {
			return 0, true
		}
	}
	if s == "" {
		return 0, true
	}
	if strings.ContainsAny(s, "_bBoO") && !strings.HasPrefix(strings.ToLower(strings.TrimLeft(s, "+-")), "0x") {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 0, 64)
	return n, err == nil
}

func (r *run) unary(x *syntax.UnaryArithm, f frame) (int64, bool) {
	if x.Op == syntax.Inc || x.Op == syntax.Dec {
		return 0, false
	}
	n, ok := r.arithmetic(x.X, f)
	switch x.Op {
	case syntax.Not:
		n = int64(btoi(n == 0))
	case syntax.BitNegation:
		n = ^n
	case syntax.Minus:
		n = -n
	}
	return n, ok
}

var assignOps = map[syntax.BinAritOperator]syntax.BinAritOperator{
	syntax.AddAssgn: syntax.Add, syntax.SubAssgn: syntax.Sub, syntax.MulAssgn: syntax.Mul, syntax.QuoAssgn: syntax.Quo, syntax.RemAssgn: syntax.Rem,
	syntax.AndAssgn: syntax.And, syntax.OrAssgn: syntax.Or, syntax.XorAssgn: syntax.Xor, syntax.ShlAssgn: syntax.Shl, syntax.ShrAssgn: syntax.Shr,
}

func (r *run) binaryArithmetic(x *syntax.BinaryArithm, f frame) (int64, bool) {
	if op, ok := assignOps[x.Op]; ok || x.Op == syntax.Assgn {
		return r.arithmeticAssign(x, op, f)
	}
	a, ok := r.arithmetic(x.X, f)
	if !ok {
		return 0, false
	}
	switch x.Op {
	case syntax.AndArit:
		if a == 0 {
			return 0, true
		}
	case syntax.OrArit:
		if a != 0 {
			return 1, true
		}
	case syntax.TernQuest:
		c, isColon := x.Y.(*syntax.BinaryArithm)
		if !isColon {
			return 0, false
		}
		if a != 0 {
			return r.arithmetic(c.X, f)
		}
		return r.arithmetic(c.Y, f)
	}
	b, ok := r.arithmetic(x.Y, f)
	if !ok {
		return 0, false
	}
	return compute(x.Op, a, b)
}

func (r *run) arithmeticAssign(x *syntax.BinaryArithm, op syntax.BinAritOperator, f frame) (int64, bool) {
	w, ok := x.X.(*syntax.Word)
	if !ok || !syntax.ValidName(w.Lit()) {
		return 0, false
	}
	n, ok := r.arithmetic(x.Y, f)
	if ok && x.Op != syntax.Assgn {
		var old int64
		if old, ok = r.number(w.Lit()); ok {
			n, ok = compute(op, old, n)
		}
	}
	if ok {
		r.assign(f, x.Pos(), w.Lit(), strconv.FormatInt(n, 10), r.dirty)
	}
	return n, ok
}

func compute(op syntax.BinAritOperator, a, b int64) (int64, bool) {
	truth := func(t bool) (int64, bool) { return int64(btoi(t)), true }
	switch op {
	case syntax.Add:
		return a + b, true
	case syntax.Sub:
		return a - b, true
	case syntax.Mul:
		return a * b, true
	case syntax.Quo, syntax.Rem:
		if b == 0 || a == math.MinInt64 && b == -1 {
			return 0, false
		}
		if op == syntax.Quo {
			return a / b, true
		}
		return a % b, true
	case syntax.And:
		return a & b, true
	case syntax.Or:
		return a | b, true
	case syntax.Xor:
		return a ^ b, true
	case syntax.Shl:
		return a << (uint64(b) & 63), true
	case syntax.Shr:
		return a >> (uint64(b) & 63), true
	case syntax.Eql:
		return truth(a == b)
	case syntax.Neq:
		return truth(a != b)
	case syntax.Lss:
		return truth(a < b)
	case syntax.Gtr:
		return truth(a > b)
	case syntax.Leq:
		return truth(a <= b)
	case syntax.Geq:
		return truth(a >= b)
	case syntax.AndArit, syntax.OrArit:
		return truth(b != 0)
	}
	return 0, false
}
