package transfer

import (
	"slices"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

func TestBases(t *testing.T) {
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	version := func(image string, number uint64, arch string) fleet.Version {
		id := manifest.ID{byte(number), image[0], arch[0]}
		return fleet.Version{Image: image, Number: number, ID: id, Kind: manifest.Image, Arch: arch, SHA256: fleet.Hash(id), Created: day.AddDate(0, 0, int(number))}
	}
	want := version("lab", 10, "amd64")
	same := version("lab", 11, "amd64")
	same.SHA256 = want.SHA256 // another initrd over the same root file system
	loaders := version("bootloaders", 3, "amd64")
	loaders.Kind = manifest.Bootloaders
	have := []fleet.Version{
		version("office", 7, "amd64"), version("lab", 3, "amd64"), version("lab", 9, "arm64"), same, version("lab", 9, "amd64"), loaders, want,
		version("office", 8, "amd64"), version("lab", 12, "amd64"),
	}
	var got []string
	for _, v := range bases(want, have) {
		got = append(got, v.Name())
	}
	if want := []string{"lab@9", "lab@12", "lab@3"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	got = nil
	for _, v := range bases(want, have[:1]) {
		got = append(got, v.Name())
	}
	if want := []string{"office@7"}; !slices.Equal(got, want) {
		t.Errorf("another image only: got %v, want %v", got, want)
	}
}

func TestCaps(t *testing.T) {
	var c caps
	if c.limiter("a", 0) != nil {
		t.Error("a brake without a cap")
	}
	l := c.limiter("a", 1<<20)
	if c.limiter("a", 1<<20) != l || c.limiter("b", 1<<20) == l {
		t.Error("transfers of a site do not share their cap, or share it with another site's")
	}
	if c.limiter("a", 2<<20) != l || l.Limit() != 2<<20 {
		t.Error("a new cap does not hold")
	}
	if c.limiter("a", 0); c.limiter("a", 1<<20) == l {
		t.Error("a cap that was taken away is still there")
	}
}
