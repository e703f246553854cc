//go:build component

package corpus

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// The component test uses the real cache: what it builds serves the benchmark.

func cacheDir(t *testing.T) string {
	if dir := os.Getenv("LTSP_CACHE"); dir != "" {
		return filepath.Join(dir, "corpus")
	}
	return t.TempDir()
}

// packagesOf returns versions by package name.
func packagesOf(t *testing.T, c Config, i Image) map[string]string {
	t.Helper()
	content, err := os.ReadFile(c.Path(Small(), i) + ".packages")
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]string{}
	for line := range strings.Lines(string(content)) {
		name, version, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok {
			t.Fatalf("line %q", line)
		}
		name, _, _ = strings.Cut(name, ":")
		packages[name] = version
	}
	return packages
}

// change returns which packages are new, gone, and in another version.
func change(old, new map[string]string) (added, removed, updated []string) {
	for name, version := range new {
		if before, known := old[name]; !known {
			added = append(added, name)
		} else if before != version {
			updated = append(updated, name)
		}
	}
	for name := range old {
		if _, known := new[name]; !known {
			removed = append(removed, name)
		}
	}
	return added, removed, updated
}

func open(t *testing.T, path string) *squashfs.FS {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	image, err := squashfs.Open(file, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestSmallCorpus(t *testing.T) {
	config := Config{CacheDir: cacheDir(t), Log: t.Logf}
	if _, err := Build(t.Context(), config, Small(), All()...); err != nil {
		t.Fatal(err)
	}
	packages := map[string]map[string]string{}
	for _, image := range All() {
		packages[image.String()] = packagesOf(t, config, image)
		checkImage(t, image, open(t, config.Path(Small(), image)))
	}
	added, removed, week := change(packages["v1 zstd"], packages["w zstd"])
	if len(added) > 0 || len(removed) > 0 || !slices.Contains(week, "openssl") || slices.Contains(week, "tzdata") {
		t.Errorf("w: new %v, gone %v, updated %v", added, removed, week)
	}
	if _, _, all := change(packages["v1 zstd"], packages["v2 zstd"]); len(all) <= len(week) {
		t.Errorf("v2 updates %v, w already %v", all, week)
	}
	if added, removed, _ := change(packages["v2 zstd"], packages["v3 zstd"]); !slices.Contains(added, "tmux") || len(removed) > 0 {
		t.Errorf("v3: new %v, gone %v", added, removed)
	}
	for _, same := range [][2]string{{"v3 zstd", "v4 zstd"}, {"v1 zstd", "v1 gzip"}, {"w zstd", "w gzip"}} {
		if added, removed, updated := change(packages[same[0]], packages[same[1]]); len(added)+len(removed)+len(updated) > 0 {
			t.Errorf("%v differ in packages: new %v, gone %v, updated %v", same, added, removed, updated)
		}
	}
}

// checkImage looks for what must and what must not be in an image.
func checkImage(t *testing.T, i Image, image *squashfs.FS) {
	t.Helper()
	for _, path := range []string{"usr/sbin/policy-rc.d", "etc/resolv.conf", "var/cache/apt/pkgcache.bin", "etc/apt/apt.conf.d/99mmdebstrap"} {
		if _, err := image.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %s is there: %v", i, path, err)
		}
	}
	for _, path := range []string{"proc", "run", "tmp", "dev", "var/log", "var/cache/apt/archives"} {
		if entries, err := image.ReadDir(path); err != nil && !errors.Is(err, fs.ErrNotExist) || len(entries) > 0 {
			t.Errorf("%s: %s holds %v: %v", i, path, entries, err)
		}
	}
	hostname, err := image.ReadFile("etc/hostname")
	if edited := i.Version == "v4"; edited != (err == nil) || edited != (string(hostname) == "school-client\n") {
		t.Errorf("%s: host name %q: %v", i, hostname, err)
	}
	if i.Version == "v4" {
		if info, err := image.Stat("usr/share/backgrounds/school.jpg"); err != nil || info.Size() != wallpaperBytes {
			t.Errorf("%s: wallpaper: %v, %v", i, info, err)
		}
	}
}
