// Package linediff compares texts line by line, as diff -u does. Only ltspctl uses it.
package linediff

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

const (
	context = 3    // lines around a change
	maxCost = 4000 // changed lines that are looked for; texts that differ more are shown as wholly replaced
)

// edit is a run of lines: which of both texts has them.
type edit struct {
	kind byte // ' ', '-' or '+'
	line string
}

// Unified returns the changes from one text to the other, with their names above, or "" if there are none. Lines that do not end with a line end count
// as if they did.
func Unified(fromName, toName string, from, to []byte) string {
	if bytes.Equal(from, to) {
		return ""
	}
	edits := compare(lines(from), lines(to))
	var b strings.Builder
	fmt.Fprintf(&b, "--- %s\n+++ %s\n", fromName, toName)
	for _, h := range hunks(edits) {
		h.write(&b, edits)
	}
	return b.String()
}

func lines(text []byte) []string {
	var list []string
	for l := range bytes.Lines(text) {
		list = append(list, strings.TrimRight(string(l), "\n"))
	}
	return list
}

// compare finds a shortest list of edits (Myers 1986, the greedy algorithm).
func compare(a, b []string) []edit {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	var edits []edit
	keep := func(list []string) {
		for _, l := range list {
			edits = append(edits, edit{' ', l})
		}
	}
	keep(a[:head])
	edits = append(edits, myers(a[head:len(a)-tail], b[head:len(b)-tail])...)
	keep(a[len(a)-tail:])
	return edits
}

func myers(a, b []string) []edit {
	// far[k] is how far in a the diagonal k (x-y) was reached; trace holds it as it was before each step.
	most := min(len(a)+len(b), maxCost)
	far := make([]int, 2*most+3)
	at := func(k int) *int { return &far[k+most+1] }
	var trace [][]int
	for d := range most + 1 {
		trace = append(trace, slices.Clone(far[most+1-d:most+2+d]))
		for k := -d; k <= d; k += 2 {
			x := *at(k - 1) + 1
			if k == -d || k != d && *at(k - 1) < *at(k + 1) {
				x = *at(k + 1)
			}
			for x < len(a) && x-k < len(b) && a[x] == b[x-k] {
				x++
			}
			*at(k) = x
			if x >= len(a) && x-k >= len(b) {
				return backtrack(a, b, trace)
			}
		}
	}
	var edits []edit
	for _, l := range a {
		edits = append(edits, edit{'-', l})
	}
	for _, l := range b {
		edits = append(edits, edit{'+', l})
	}
	return edits
}

func backtrack(a, b []string, trace [][]int) []edit {
	var edits []edit
	x, y := len(a), len(b)
	for d := len(trace) - 1; d > 0; d-- {
		far := trace[d] // diagonals -d to d
		k := x - y
		at := func(k int) int { return far[k+d] }
		from := k - 1
		if k == -d || k != d && at(k-1) < at(k+1) {
			from = k + 1
		}
		moved := at(from) // where the step has led to: down keeps x, right adds one
		if from == k-1 {
			moved++
		}
		for x > moved {
			x, y = x-1, y-1
			edits = append(edits, edit{' ', a[x]})
		}
		if from == k+1 {
			y--
			edits = append(edits, edit{'+', b[y]})
		} else {
			x--
			edits = append(edits, edit{'-', a[x]})
		}
	}
	for x > 0 {
		x--
		edits = append(edits, edit{' ', a[x]})
	}
	slices.Reverse(edits)
	return edits
}

// hunk is a part of the edits with the line numbers, from 1, at which it begins in both texts.
type hunk struct{ first, end, fromLine, toLine int }

func hunks(edits []edit) []hunk {
	var list []hunk
	for i, e := range edits {
		if e.kind == ' ' {
			continue
		}
		first, end := max(i-context, 0), min(i+context+1, len(edits))
		if n := len(list); n > 0 && first <= list[n-1].end {
			list[n-1].end = end
		} else {
			list = append(list, hunk{first: first, end: end})
		}
	}
	from, to, next := 1, 1, 0
	for i, e := range edits {
		if next < len(list) && list[next].first == i {
			list[next].fromLine, list[next].toLine = from, to
			next++
		}
		if e.kind != '+' {
			from++
		}
		if e.kind != '-' {
			to++
		}
	}
	return list
}

func (h hunk) write(b *strings.Builder, edits []edit) {
	var from, to int
	for _, e := range edits[h.first:h.end] {
		if e.kind != '+' {
			from++
		}
		if e.kind != '-' {
			to++
		}
	}
	fmt.Fprintf(b, "@@ -%s +%s @@\n", span(h.fromLine, from), span(h.toLine, to))
	for _, e := range edits[h.first:h.end] {
		fmt.Fprintf(b, "%c%s\n", e.kind, e.line)
	}
}

// span writes a range as diff does: an empty one is named by the line before it.
func span(first, n int) string {
	if n == 0 {
		first--
	}
	return fmt.Sprintf("%d,%d", first, n)
}
