package transfer

import (
	"cmp"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// bases picks the versions from which a delta could lead to version, the likeliest first: the same image before others, the nearest number first.
// Other architectures have nothing in common.
func bases(version fleet.Version, have []fleet.Version) []fleet.Version {
	have = slices.DeleteFunc(slices.Clone(have), func(v fleet.Version) bool {
		return v.Kind != manifest.Image || v.Arch != version.Arch || v.ID == version.ID || v.SHA256 == version.SHA256
	})
	distance := func(v fleet.Version) uint64 {
		switch {
		case v.Image != version.Image:
			return 1 << 63 // whichever: numbers of other images say nothing
		case v.Number > version.Number:
			return v.Number - version.Number
		}
		return version.Number - v.Number
	}
	slices.SortStableFunc(have, func(a, b fleet.Version) int {
		return cmp.Or(cmp.Compare(distance(a), distance(b)), b.Created.Compare(a.Created), cmp.Compare(a.Image, b.Image))
	})
	return have[:min(len(have), maxBases)]
}
