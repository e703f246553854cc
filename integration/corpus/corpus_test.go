package corpus

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseTargets(t *testing.T) {
	out := strings.Join([]string{
		"http://a.example/debian/ bookworm main Debian",
		"http://a.example/debian/ bookworm main Debian", // once per architecture
		"http://a.example/debian/ bookworm contrib Debian",
		"http://a.example/debian/ bookworm-updates main Debian",
		"http://a.example/debian/ bookworm-backports main Debian Backports",
		"http://s.example/debian-security/ bookworm-security main Debian",
		"http://v.example/apt bookworm main Vendor",
		"http://v.example/apt stable main Debian",
		"broken", "",
	}, "\n")
	want := []archive{
		{"http://a.example/debian/", "bookworm"},
		{"http://a.example/debian/", "bookworm-updates"},
		{"http://s.example/debian-security/", "bookworm-security"},
	}
	if diff := cmp.Diff(want, parseTargets(out), cmp.AllowUnexported(archive{})); diff != "" {
		t.Error(diff)
	}
}

func TestWriteSources(t *testing.T) {
	all := []archive{{"http://a.example/debian/", "bookworm"}, {"http://s.example/debian-security/", "bookworm-security"}}
	for _, test := range []struct {
		name        string
		onlyRelease bool
		want        string
	}{
		{"release", true, "deb http://a.example/debian/ bookworm main\n"},
		{"all", false, "deb http://a.example/debian/ bookworm main\ndeb http://s.example/debian-security/ bookworm-security main\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "list")
			if err := writeSources(path, all, test.onlyRelease); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSelectOptions(t *testing.T) {
	dump := "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://p.example:3128\";\nAcquire::Retries \"3\";\nAcquire::Languages \"none\";\nDPkg::Post-Invoke:: \"false\";\n"
	want := []string{`Acquire::http::Proxy "http://p.example:3128";`, `Acquire::Retries "3";`}
	if diff := cmp.Diff(want, selectOptions(dump)); diff != "" {
		t.Error(diff)
	}
}

func TestSteps(t *testing.T) {
	v := Variant{Name: "test", Base: "minbase", Packages: []string{"p"}, Weekly: []string{"s"}, Apps: []string{"a"}}
	for _, test := range []struct {
		image Image
		want  step
	}{
		{Image{"v1", "zstd"}, step{action: actionBootstrap, args: []string{"minbase", "p"}, compressor: "zstd"}},
		{Image{"w", "zstd"}, step{action: actionUpgrade, args: []string{"s"}, compressor: "zstd", base: &Image{"v1", "zstd"}}},
		{Image{"v2", "zstd"}, step{action: actionFull, compressor: "zstd", base: &Image{"v1", "zstd"}}},
		{Image{"v3", "zstd"}, step{action: actionInstall, args: []string{"a"}, compressor: "zstd", base: &Image{"v2", "zstd"}}},
		{Image{"v4", "zstd"}, step{action: actionEdit, compressor: "zstd", base: &Image{"v3", "zstd"}}},
		{Image{"w", "gzip"}, step{action: actionCopy, compressor: "gzip", base: &Image{"w", "zstd"}}},
	} {
		t.Run(test.image.String(), func(t *testing.T) {
			got, err := v.step(test.image)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(step{})); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, image := range []Image{{"v5", "zstd"}, {"v1", "xz"}, {}} {
		if _, err := v.step(image); err == nil {
			t.Errorf("%v was accepted", image)
		}
	}
}

// TestKey wants a key to change with everything that makes another image, and with nothing else.
func TestKey(t *testing.T) {
	base := func() (Variant, Image, string) {
		return Variant{Name: "a", Base: "minbase", Packages: []string{"p", "q"}, Weekly: []string{"s"}, Apps: []string{"x"}}, Image{"v1", "zstd"}, ""
	}
	key := func(change func(v *Variant, i *Image, sum *string)) string {
		v, i, sum := base()
		change(&v, &i, &sum)
		s, err := v.step(i)
		if err != nil {
			t.Fatal(err)
		}
		return v.key(s, sum)
	}
	same := key(func(*Variant, *Image, *string) {})
	for name, change := range map[string]func(*Variant, *Image, *string){
		"name":            func(v *Variant, _ *Image, _ *string) { v.Name = "b" },
		"packages of v3":  func(v *Variant, _ *Image, _ *string) { v.Apps = nil },
		"packages of w":   func(v *Variant, _ *Image, _ *string) { v.Weekly = nil },
		"nothing changed": func(*Variant, *Image, *string) {},
	} {
		if key(change) != same {
			t.Errorf("%s: v1 has another key", name)
		}
	}
	seen := map[string]string{same: "v1"}
	for name, change := range map[string]func(*Variant, *Image, *string){
		"packages":   func(v *Variant, _ *Image, _ *string) { v.Packages = v.Packages[:1] },
		"base":       func(v *Variant, _ *Image, _ *string) { v.Base = "apt" },
		"version":    func(_ *Variant, i *Image, _ *string) { i.Version = "v2" },
		"compressor": func(_ *Variant, i *Image, _ *string) { i.Compressor = "gzip" },
		"base image": func(_ *Variant, i *Image, sum *string) { i.Version, *sum = "v2", "00" },
	} {
		k := key(change)
		if other, known := seen[k]; known {
			t.Errorf("%s: same key as %s", name, other)
		}
		seen[k] = name
	}
}

func TestVariants(t *testing.T) {
	for _, name := range []string{"small", "desktop"} {
		v, err := VariantByName(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, image := range All() {
			if _, err := v.step(image); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, list := range [][]string{v.Packages, v.Weekly, v.Apps} {
			if sorted := slices.Sorted(slices.Values(list)); len(slices.Compact(sorted)) != len(list) || len(list) == 0 {
				t.Errorf("%s: empty list or something twice in %v", name, list)
			}
		}
	}
	if _, err := VariantByName("huge"); err == nil {
		t.Error("huge was accepted")
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"HOME=/root", "SOURCE_DATE_EPOCH=1", "APT_CONFIG=/x", "work=/y", "http_proxy=http://p.example"}, "/w", "zstd")
	want := []string{"HOME=/root", "http_proxy=http://p.example", "work=/w", "compressor=zstd", "TMPDIR=/tmp", "LC_ALL=C.UTF-8"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestPublished finds an image again that was published, and none that is incomplete or of another recipe.
func TestPublished(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b, err := newBuilder(Config{CacheDir: t.TempDir(), Now: func() time.Time { return now }}, Small())
	if err != nil {
		t.Fatal(err)
	}
	image := Image{"v1", "zstd"}
	path := b.Path(b.variant, image)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	publish := func() Record {
		work, err := b.workDir()
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{imageFile: "hsqs", packagesFile: "dpkg\t1\n"} {
			if err := os.WriteFile(filepath.Join(work, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		record := Record{Key: "k", Built: now}
		if record.SHA256, record.Size, err = hashFile(filepath.Join(work, imageFile)); err != nil {
			t.Fatal(err)
		}
		if err := b.publish(work, path, record); err != nil {
			t.Fatal(err)
		}
		return record
	}
	if _, ok := b.cached(image, "k"); ok {
		t.Error("found in an empty cache")
	}
	want := publish()
	for range 2 {
		got, ok := b.cached(image, "k")
		if diff := cmp.Diff(want, got); !ok || diff != "" {
			t.Errorf("found %v: %s", ok, diff)
		}
		publish() // over the one that is there
	}
	if _, ok := b.cached(image, "other"); ok {
		t.Error("found under another key")
	}
	if err := os.Truncate(path, 3); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.cached(image, "k"); ok {
		t.Error("found a truncated image")
	}
}

func TestFollow(t *testing.T) {
	var logged []string
	b := &builder{Config: Config{Log: func(format string, args ...any) { logged = append(logged, strings.TrimSpace(args[0].(string))) }}}
	got := b.follow(strings.NewReader(strings.Repeat("noise\n", 100) + "CORPUS: half done\n\nend"))
	if len(got) != lastLines || got[lastLines-1] != "end" || got[lastLines-2] != "CORPUS: half done" {
		t.Errorf("last lines: %q", got)
	}
	if diff := cmp.Diff([]string{"half done"}, logged); diff != "" {
		t.Error(diff)
	}
}
