//go:build component

package testimage

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// The component tests use the real cache: what they build serves the VM tests and the demo.

// listing reads the archive: modes by clean name, contents of small regular files too.
func listing(t *testing.T, archive string) (names map[string]*tar.Header, contents map[string]string) {
	t.Helper()
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	names, contents = map[string]*tar.Header{}, map[string]string{}
	entries := tar.NewReader(file)
	for {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return names, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		name := path.Clean(header.Name)
		if names[name] != nil {
			t.Errorf("%s is in the archive twice", name)
		}
		names[name] = header
		if header.Typeflag == tar.TypeReg && header.Size < 4096 {
			data, err := io.ReadAll(entries)
			if err != nil {
				t.Fatal(err)
			}
			contents[name] = string(data)
		}
	}
}

func TestBuild(t *testing.T) {
	archive, err := Build(t.Context(), Config{Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	names, contents := listing(t, archive)
	var kernels, modules, initrds, manuals, total int
	for name, header := range names {
		total += int(header.Size)
		switch {
		case strings.HasPrefix(name, "boot/vmlinuz-"):
			kernels++
		case strings.HasPrefix(name, "boot/initrd"):
			initrds++
		case strings.HasPrefix(name, "usr/share/man/man"):
			manuals++
		case strings.HasSuffix(name, "/nbd.ko") || strings.HasSuffix(name, "/nbd.ko.xz"):
			modules++
		}
	}
	if kernels != 1 || modules != 1 || initrds != 0 || manuals != 0 {
		t.Errorf("%d kernels, %d nbd modules, %d initrds, %d manual folders", kernels, modules, initrds, manuals)
	}
	if total < 100e6 || total > 500e6 {
		t.Errorf("the root has %d bytes", total)
	}
	for _, name := range []string{"usr/sbin/init", "sbin/init"} {
		if names[name] != nil && names[name].Linkname != "" && strings.Contains(names[name].Linkname, "systemd") {
			names["an init"] = names[name]
		}
	}
	if names["an init"] == nil {
		t.Error("no systemd as init")
	}
	if !strings.Contains(contents["etc/shadow"], "root::") {
		t.Errorf("root has a password: %q", contents["etc/shadow"])
	}
	if fstab, found := contents["etc/fstab"]; !found || fstab != "" {
		t.Errorf("fstab is %q", fstab)
	}
	for _, unit := range []string{"getty-static.service", "apt-daily.timer"} {
		if header := names["etc/systemd/system/"+unit]; header == nil || header.Linkname != "/dev/null" {
			t.Errorf("%s is not masked", unit)
		}
	}
	for name := range names {
		if strings.HasSuffix(name, "99mmdebstrap") {
			t.Errorf("%s is left", name)
		}
	}
	again, err := Build(t.Context(), Config{Log: func(format string, args ...any) { t.Errorf("a cached root says: "+format, args...) }})
	if err != nil || again != archive {
		t.Errorf("second build: %s, %v", again, err)
	}
}

func TestVariantAndUnpack(t *testing.T) {
	base, err := Build(t.Context(), Config{Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(t.TempDir(), "v2.tar")
	if err := Variant(t.Context(), base, second, map[string]string{"etc/version-marker": "2\n"}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := Unpack(t.Context(), second, dir); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "etc/version-marker")); err != nil || string(got) != "2\n" {
		t.Errorf("marker: %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "etc/debian_version")); err != nil {
		t.Error(err)
	}
	if err := Variant(t.Context(), base, second, map[string]string{"etc/debian_version": "13\n"}); err == nil {
		t.Error("a path of the base was taken")
	}
}

func TestKernel(t *testing.T) {
	tree, err := Kernel(t.Context(), Config{Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	dep, err := os.ReadFile(filepath.Join(tree.Modules, "modules.dep"))
	if err != nil || !strings.Contains(string(dep), "nbd.ko") || !strings.Contains(string(dep), "virtio_net.ko") {
		t.Errorf("modules.dep: %d bytes, %v", len(dep), err)
	}
	if info, err := os.Stat(tree.Image); err != nil || info.Size() < 1e6 {
		t.Errorf("kernel image: %v", err)
	}
}

// TestCancelledBuildLeavesNothing ends a build in the middle.
func TestCancelledBuildLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := Build(ctx, Config{CacheDir: dir, Log: func(format string, args ...any) {
		t.Logf(format, args...)
		if strings.Contains(fmt.Sprintf(format, args...), "extracting") {
			cancel()
		}
	}})
	if err == nil || ctx.Err() == nil {
		t.Fatalf("the build ends with %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 || !strings.HasSuffix(left[0], ".lock") {
		t.Errorf("left behind: %v, %v", left, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("still mounted below %s: %v\n%s", dir, err, mounts)
	}
}

// TestKernelWithFreshLists does not trust the machine's package lists.
func TestKernelWithFreshLists(t *testing.T) {
	c, err := Config{CacheDir: t.TempDir(), Log: t.Logf}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	archive, err := c.downloadWithFreshLists(t.Context(), c.CacheDir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(archive); err != nil || info.Size() < 1e6 {
		t.Errorf("archive: %v", err)
	}
}
