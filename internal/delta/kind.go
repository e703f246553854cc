package delta

import "github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"

// kind says what a changed unit probably holds. A group has units of one kind, so that whoever reads a little of what was updated need not
// wait for much that is new.
type kind uint8

const (
	// kindUpdate resembles content of OLD, or lies in one block with what does: little on the wire.
	kindUpdate kind = iota
	// kindNew has no counterpart in OLD, or is in a long file: much on the wire, the less the longer the group is.
	kindNew
	// kindStored is new content that does not compress: it gains nothing by a longer group.
	kindStored
)

const (
	// longFile is from which length on a file's content is kindNew: no client waits for little of it.
	longFile = 32 << 20
	// minKindRun is how much content of another kind than kindUpdate gets groups of its own.
	minKindRun = 512 << 10
)

// target is how much content a group holds before the next one begins.
func (k kind) target() int64 {
	switch k {
	case kindNew:
		return 16 << 20
	case kindStored:
		return 512 << 10
	default:
		return 4 << 20
	}
}

// kinds judges the changed units.
func (m *maker) kinds(joined []bool) []kind {
	out := make([]kind, len(m.layout.changed))
	if m.index.mode != modeSemantic {
		return out
	}
	j := &judge{m: m, known: make(map[int32]bool)}
	for i, u := range m.layout.changed {
		out[i] = j.kind(u)
	}
	for i := 0; i < len(out); {
		n, raw := 0, int64(0)
		for i+n < len(out) && out[i+n] == out[i] {
			raw += m.neu.model.units[m.layout.changed[i+n]].raw
			n++
		}
		if raw < minKindRun {
			clear(out[i : i+n])
		}
		i += n
	}
	for i := 1; i < len(out); i++ {
		if joined[i] { // a group cannot begin here
			out[i] = out[i-1]
		}
	}
	return out
}

// judge tells new files from updated ones.
type judge struct {
	m     *maker
	known map[int32]bool // of files of NEW: whether OLD has a counterpart
}

func (j *judge) kind(u int32) kind {
	neu := j.m.neu.model
	un := &neu.units[u]
	if un.gap {
		return kindUpdate
	}
	if o := neu.owner[u]; o.file != noFile {
		f := &neu.files[o.file]
		switch old := j.counterpart(o.file, f); {
		case !un.packed && un.raw == neu.blockSize:
			return kindStored
		case !old || f.Size >= longFile:
			return kindNew
		default:
			return kindUpdate
		}
	}
	for _, f := range neu.tails[u] {
		if j.counterpart(f, &neu.files[f]) {
			return kindUpdate
		}
	}
	return kindNew
}

// counterpart tells whether OLD has a file that the file may resemble.
func (j *judge) counterpart(file int32, f *sqmeta.File) bool {
	is, ok := j.known[file]
	if !ok {
		is = len(j.m.differ.pairs.Bases(f.Paths, f.Size, 1)) > 0
		j.known[file] = is
	}
	return is
}
