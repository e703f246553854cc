// Package health is what the satellite knows of its own state: the problems that a person should look at, who holds a port that it needs, and the
// status socket by which "ltsp-satellite status" asks a running satellite. Only the satellite's wiring imports it.
package health

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"
)

// MaxLines is how many problems Lines returns; the last line then tells how many more there are.
const MaxLines = 16

// maxKeys bounds the board; further problems are dropped.
const maxKeys = 256

// Board holds the present problems by key. Its methods are safe for concurrent use and do not block. The zero Board is ready.
type Board struct {
	// Changed, if not nil, is called after a change; it must not block. Set it before use.
	Changed func()

	mu    sync.Mutex
	lines map[string]line
}

type line struct {
	text  string
	since time.Time
}

// Set puts or changes a problem; an empty text takes it away.
func (b *Board) Set(key, text string) {
	b.mu.Lock()
	old, known := b.lines[key]
	changed := old.text != text
	switch {
	case text == "":
		delete(b.lines, key)
	case known:
		b.lines[key] = line{text, old.since}
	case len(b.lines) < maxKeys:
		if b.lines == nil {
			b.lines = make(map[string]line)
		}
		b.lines[key] = line{text, time.Now()}
	default:
		changed = false
	}
	b.mu.Unlock()
	if changed && b.Changed != nil {
		b.Changed()
	}
}

// Lines returns the problems, the oldest first.
func (b *Board) Lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	type entry struct {
		key string
		line
	}
	all := make([]entry, 0, len(b.lines))
	for k, l := range b.lines {
		all = append(all, entry{k, l})
	}
	slices.SortFunc(all, func(x, y entry) int { return cmp.Or(x.since.Compare(y.since), cmp.Compare(x.key, y.key)) })
	var out []string
	for i, e := range all {
		if i == MaxLines-1 && len(all) > MaxLines {
			return append(out, fmt.Sprintf("and %d more problems", len(all)-i))
		}
		out = append(out, e.text)
	}
	return out
}
