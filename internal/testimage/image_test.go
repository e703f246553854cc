package testimage

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestHostRelease(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"Debian", "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n", "bookworm"},
		{"quoted", "ID='debian'\nVERSION_CODENAME=\"trixie\"\n", "trixie"},
		{"another distribution", "ID=fedora\nVERSION_CODENAME=x\n", ""},
		{"no code name", "ID=debian\n", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "os-release")
			if err := os.WriteFile(path, []byte(test.in), 0o644); err != nil {
				t.Fatal(err)
			}
			if got, err := hostRelease(path); got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestKeyFollowsConfiguration(t *testing.T) {
	a := Config{Flavour: Cloud}
	seen := map[string]bool{}
	for _, key := range []string{
		a.key("bookworm"), a.key("trixie"), Config{Flavour: Stock}.key("bookworm"), Config{Flavour: Cloud, Packages: []string{"vim"}}.key("bookworm"),
	} {
		if seen[key] {
			t.Errorf("two configurations share %s", key)
		}
		seen[key] = true
	}
	if b := (Config{Flavour: Cloud, Packages: []string{"udev"}}); b.key("bookworm") != a.key("bookworm") {
		t.Error("naming a package that is there anyway makes another root")
	}
}

func TestFetchOptions(t *testing.T) {
	dump := "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://proxy:3142\";\nAcquire::Check-Valid-Until \"false\";\nAcquire::Languages:: \"none\";\nDir::Etc \"etc/apt\";\nAcquire::Retries \"3\";\nDPkg::Post-Invoke:: \"rm -rf /\";\n"
	want := []string{`Acquire::http::Proxy "http://proxy:3142";`, `Acquire::Check-Valid-Until "false";`, `Acquire::Retries "3";`}
	if diff := cmp.Diff(want, fetchOptions(dump)); diff != "" {
		t.Error(diff)
	}
}

func TestDependency(t *testing.T) {
	got, err := dependency("linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Depends: linux-image-6.1.0-57-cloud-amd64\n")
	if err != nil || got != "linux-image-6.1.0-56-cloud-amd64" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := dependency("linux-image-amd64\n  Suggests: linux-image-x\n"); err == nil {
		t.Errorf("took %q", got)
	}
}

func TestOnceBuildsOnce(t *testing.T) {
	c := Config{CacheDir: t.TempDir(), Log: t.Logf}
	result := filepath.Join(c.CacheDir, "result")
	var builds atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			err := c.once(t.Context(), result, func() error {
				builds.Add(1)
				return os.WriteFile(result, nil, 0o644)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if builds.Load() != 1 {
		t.Errorf("built %d times", builds.Load())
	}
}

func TestLockWaitsForContext(t *testing.T) {
	c := Config{Log: t.Logf}
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := c.lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second lock: %v", err)
	}
	unlock()
	again, err := c.lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestWorkDirRemovesStaleOnes(t *testing.T) {
	result := filepath.Join(t.TempDir(), "root-x.tar")
	first, err := workDir(result)
	if err != nil {
		t.Fatal(err)
	}
	other, err := workDir(result + "2")
	if err != nil {
		t.Fatal(err)
	}
	second, err := workDir(result)
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{first: false, second: true, other: true} {
		if exists(dir) != want {
			t.Errorf("%s exists: %v", dir, !want)
		}
	}
}

func TestFollow(t *testing.T) {
	var said []string
	c := Config{Log: func(format string, args ...any) { said = append(said, strings.TrimSpace(args[0].(string))) }}
	last := c.follow(strings.NewReader("I: extracting archives...\nE: no network\nI: using /tmp/x\nGet:1 x\n" + strings.Repeat("line\n", 40)))
	if diff := cmp.Diff([]string{"extracting archives..."}, said); diff != "" {
		t.Error(diff)
	}
	if len(last) != 30 {
		t.Errorf("%d lines kept", len(last))
	}
}

func smallArchive(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "base.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := tar.NewWriter(file)
	if err := w.WriteHeader(&tar.Header{Name: "./etc/old", Mode: 0o644, Size: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVariant(t *testing.T) {
	base := smallArchive(t)
	out := filepath.Join(t.TempDir(), "v2.tar")
	if err := Variant(t.Context(), base, out, map[string]string{"etc/new": "new", "srv/deep/file": "x"}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := Unpack(t.Context(), out, dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"etc/old": "old", "etc/new": "new", "srv/deep/file": "x"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"etc/old", "/etc/new", "../x", "etc/", "./etc/new"} {
		if err := Variant(t.Context(), base, out, map[string]string{name: ""}); err == nil {
			t.Errorf("%q accepted", name)
		}
	}
	left, err := os.ReadDir(filepath.Dir(out))
	if err != nil || len(left) != 1 {
		t.Errorf("%d files beside the variant, %v", len(left)-1, err)
	}
	if err := Variant(t.Context(), base+"x", out, nil); err == nil {
		t.Error("a missing base is no error")
	}
}

func TestInspectKernel(t *testing.T) {
	root := t.TempDir()
	if _, err := inspectKernel(root); err == nil {
		t.Error("an empty package holds a kernel")
	}
	for _, dir := range []string{"boot", "usr/lib/modules/6.1.0"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "boot/vmlinuz-6.1.0"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := inspectKernel(root); err == nil {
		t.Error("modules were found outside lib")
	}
	if err := linkLib(root); err != nil { // as a package of a merged system is unpacked
		t.Fatal(err)
	}
	tree, err := inspectKernel(root)
	if err != nil || tree.Release != "6.1.0" {
		t.Errorf("%+v, %v", tree, err)
	}
}

func TestRefusedConfig(t *testing.T) {
	if _, err := (Config{CacheDir: t.TempDir(), Flavour: "arm64"}).withDefaults(); err == nil {
		t.Error("unknown flavour accepted")
	}
}
