// Package pair finds, for a file of a new image, files of the old one that it probably resembles, by names and sizes alone. It
// reads nothing; internal/delta is its only user.
package pair

import (
	"cmp"
	"path"
	"slices"
	"strings"
)

// File is one file of the old image.
type File struct {
	// Paths are all its names.
	Paths []string
	// Size is in bytes; empty files are never a base.
	Size int64
}

// Table answers for one old image. It is read-only and safe for concurrent use.
type Table struct {
	files  []File
	exact  map[string]int32
	masked map[string][]int32 // whole path, digits masked
	base   map[string][]int32 // base name, digits masked
	stem   map[string][]int32 // base name without digits and separators
}

// New builds the table. Files are named by their index from then on.
func New(files []File) *Table {
	t := &Table{files: files, exact: make(map[string]int32, len(files)), masked: make(map[string][]int32),
		base: make(map[string][]int32), stem: make(map[string][]int32)}
	for i, f := range files {
		if f.Size == 0 {
			continue
		}
		for _, p := range f.Paths {
			t.exact[p] = int32(i)
			t.add(t.masked, mask(p), i)
			t.add(t.base, mask(path.Base(p)), i)
			t.add(t.stem, stem(path.Base(p)), i)
		}
	}
	return t
}

func (t *Table) add(m map[string][]int32, key string, i int) {
	if l := m[key]; len(l) == 0 || l[len(l)-1] != int32(i) {
		m[key] = append(l, int32(i))
	}
}

// maxCandidates bounds how many files of one key are looked at; more of them means that the key says nothing.
const maxCandidates = 4096

// Bases gives up to limit old files, the most promising first: the one of the same path; those whose path differs in numbers
// only; those of the same base name, in other directories or in another version. Among equals a file in a similar directory and of
// similar size comes first.
func (t *Table) Bases(paths []string, size int64, limit int) []int32 {
	var out []int32
	for _, p := range paths {
		if i, ok := t.exact[p]; ok {
			out = appendNew(out, i)
		}
	}
	for _, p := range paths {
		base := path.Base(p)
		for _, l := range [][]int32{t.masked[mask(p)], t.base[mask(base)], t.stem[stem(base)]} {
			if len(l) > maxCandidates {
				continue
			}
			for _, i := range t.rank(l, p, size) {
				out = appendNew(out, i)
			}
			if len(out) >= limit {
				return out[:limit]
			}
		}
	}
	return out
}

// rank orders candidates by how much of their path is that of p and by size.
func (t *Table) rank(l []int32, p string, size int64) []int32 {
	type ranked struct {
		file  int32
		score float64
	}
	rs := make([]ranked, len(l))
	for k, i := range l {
		f := &t.files[i]
		small, large := min(f.Size, size), max(f.Size, size)
		score := 2 * float64(small) / float64(max(large, 1))
		best := 0.0
		for _, q := range f.Paths {
			best = max(best, similarity(q, p))
		}
		rs[k] = ranked{i, score + best}
	}
	slices.SortStableFunc(rs, func(a, b ranked) int { return cmp.Compare(b.score, a.score) })
	out := make([]int32, len(rs))
	for k, r := range rs {
		out[k] = r.file
	}
	return out
}

// similarity is the share of two paths, 0 to 1, that lies in a common start or end.
func similarity(a, b string) float64 {
	n := min(len(a), len(b))
	i := 0
	for i < n && a[i] == b[i] {
		i++
	}
	k := 0
	for k < n-i && a[len(a)-1-k] == b[len(b)-1-k] {
		k++
	}
	return float64(i+k) / float64(max(len(a), len(b), 1))
}

func appendNew(out []int32, i int32) []int32 {
	if slices.Contains(out, i) {
		return out
	}
	return append(out, i)
}

// mask replaces every run of digits by one '#'.
func mask(s string) string {
	if !strings.ContainsAny(s, "0123456789") {
		return s
	}
	var b strings.Builder
	in := false
	for i := range len(s) {
		digit := s[i] >= '0' && s[i] <= '9'
		if !digit {
			b.WriteByte(s[i])
		} else if !in {
			b.WriteByte('#')
		}
		in = digit
	}
	return b.String()
}

// stem leaves of a base name what does not change with a version: neither digits nor the separators around them.
func stem(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' || r == '~' || r == '+' {
			return -1
		}
		return r
	}, s)
}
