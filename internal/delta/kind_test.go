package delta

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta/pair"
	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
)

// TestCut: what was updated, what is new and what does not compress lie in groups of their own, unless a stream joins them or there is little
// of it.
func TestCut(t *testing.T) {
	const block = 128 << 10
	const update, fresh, long, fragment, freshFragment, noFile = 0, 1, 2, 10, 11, -1
	type run struct {
		file   int // or one of the fragments
		n      int
		stored bool
		joined bool // to the unit before
	}
	for _, tc := range []struct {
		name string
		runs []run
		want []int // units of each group
	}{
		{"nothing", nil, nil},
		{"update", []run{{file: update, n: 70}}, []int{32, 32, 6}},
		{"new", []run{{file: fresh, n: 300}}, []int{128, 128, 44}},
		{"long file", []run{{file: long, n: 300}}, []int{128, 128, 44}},
		{"stored", []run{{file: update, n: 9, stored: true}}, []int{4, 4, 1}},
		{"both", []run{{file: update, n: 3}, {file: fresh, n: 5, stored: true}, {file: fragment, n: 1}, {file: fresh, n: 40}, {file: update, n: 1}}, []int{3, 4, 1, 1, 40, 1}},
		{"little that is new", []run{{file: update, n: 3}, {file: fresh, n: 3}, {file: fresh, n: 2, stored: true}, {file: update, n: 3}}, []int{11}},
		{"new tails", []run{{file: fresh, n: 20}, {file: freshFragment, n: 1}, {file: fresh, n: 20}}, []int{41}},
		{"joined", []run{{file: update, n: 3}, {file: fresh, n: 20, stored: true, joined: true}, {file: update, n: 2}}, []int{25}},
		{"belongs to nothing", []run{{file: noFile, n: 5, stored: true}, {file: update, n: 2}}, []int{7}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			neu := &model{blockSize: block, files: []sqmeta.File{
				{Paths: []string{"usr/bin/updated"}, Size: 5 << 20}, {Paths: []string{"opt/added"}, Size: 5 << 20}, {Paths: []string{"usr/lib/long.so"}, Size: 60 << 20},
			}}
			m := &maker{neu: &image{model: neu}, layout: &layout{}, differ: &differ{pairs: pair.New([]pair.File{
				{Paths: []string{"usr/bin/updated"}, Size: 5 << 20}, {Paths: []string{"usr/lib/long.so"}, Size: 60 << 20},
			})}}
			m.index.mode = modeSemantic
			var joined []bool
			for _, r := range tc.runs {
				for range r.n {
					m.layout.changed = append(m.layout.changed, int32(len(neu.units)))
					neu.units = append(neu.units, unit{stored: 1, raw: block, packed: !r.stored, gap: r.file == noFile})
					joined = append(joined, r.joined)
					o, tails := owner{file: noFile}, []int32(nil)
					switch r.file {
					case fragment:
						tails = []int32{update, fresh}
					case freshFragment:
						tails = []int32{fresh}
					default:
						o.file = int32(r.file)
					}
					neu.owner, neu.tails = append(neu.owner, o), append(neu.tails, tails)
				}
			}
			var got []int
			for _, g := range m.cut(joined, make([][]stream, len(joined))) {
				got = append(got, len(g.units))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
