//go:build component

package imagebuild

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// source makes a small root with people and secrets in it.
func source(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "src")
	for name, content := range map[string]string{
		"etc/os-release":                  "NAME=Test\n",
		"etc/login.defs":                  "UID_MIN 1000\nUID_MAX 60000\n",
		"etc/passwd":                      "root:x:0:0::/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\n",
		"etc/shadow":                      "root:*:1::::::\nanna:$y$secret:1::::::\n",
		"etc/group":                       "root:x:0:\nanna:x:1000:\nsudo:x:27:anna\n",
		"etc/fstab":                       "UUID=1 / ext4 defaults 0 1\n",
		"etc/machine-id":                  "0123456789abcdef0123456789abcdef\n",
		"etc/ssh/ssh_host_ed25519_key":    "PRIVATE",
		"etc/ssh/sshd_config":             "Port 22\n",
		"home/anna/diary":                 "secret",
		"root/.ssh/id_ed25519":            "PRIVATE",
		"var/log/syslog":                  "secret",
		"var/cache/apt/pkgcache.bin":      "x",
		"var/lib/dpkg/lock":               "",
		"var/cache/debconf/passwords.dat": "secret",
		"srv/.hidden/key":                 "secret",
		"tmp/.X11-unix/x":                 "x",
		"usr/bin/tool":                    "#!/bin/sh\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func unsquash(t *testing.T, image string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	if out, err := exec.CommandContext(t.Context(), "unsquashfs", "-quiet", "-no-progress", "-d", dir, image).CombinedOutput(); err != nil {
		t.Fatalf("unsquashfs: %v: %s", err, out)
	}
	return dir
}

func TestBuildLeavesOutPeopleAndSecrets(t *testing.T) {
	root := source(t)
	before, err := os.ReadFile(filepath.Join(root, "etc/shadow"))
	if err != nil {
		t.Fatal(err)
	}
	output := filepath.Join(t.TempDir(), "lab.squashfs")
	steps := map[string]bool{}
	result, err := Build(t.Context(), Options{Source: root, Output: output, Progress: func(step string, _ int) { steps[step] = true }})
	if err != nil {
		t.Fatal(err)
	}
	if result.SizeBytes == 0 || !steps["packing"] {
		t.Errorf("result %+v, steps %v", result, steps)
	}
	dir := unsquash(t, output)
	for name, want := range map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/shadow": "root:*:1::::::\n", "etc/group": "root:x:0:\nsudo:x:27:\n",
		"etc/fstab": "", "etc/machine-id": "", "var/log/syslog": "", "var/cache/debconf/passwords.dat": "", "etc/ssh/sshd_config": "Port 22\n",
	} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"etc/ssh/ssh_host_ed25519_key", "home/anna", "root/.ssh", "srv/.hidden", "tmp/.X11-unix", "var/cache/apt/pkgcache.bin"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is in the image", name)
		}
	}
	if after, _ := os.ReadFile(filepath.Join(root, "etc/shadow")); !bytes.Equal(before, after) {
		t.Error("the source was changed")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(output), ".ltspctl-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBuildTwiceGivesTheSameBytes(t *testing.T) {
	root := source(t)
	var images [2][]byte
	for i := range images {
		output := filepath.Join(t.TempDir(), "lab.squashfs")
		if _, err := Build(t.Context(), Options{Source: root, Output: output}); err != nil {
			t.Fatal(err)
		}
		var err error
		if images[i], err = os.ReadFile(output); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two builds of one source differ")
	}
}

func TestBuildFromTarAndSquashfs(t *testing.T) {
	root := source(t)
	tarball := filepath.Join(t.TempDir(), "root.tar.gz")
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", root, "-czf", tarball, ".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	first := filepath.Join(t.TempDir(), "first.squashfs")
	if _, err := Build(t.Context(), Options{Source: tarball, Output: first}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(unsquash(t, first), "etc/passwd")); err != nil || strings.Contains(string(got), "anna") {
		t.Errorf("passwd %q, %v", got, err)
	}
	second := filepath.Join(t.TempDir(), "second.squashfs")
	if _, err := Build(t.Context(), Options{Source: first, Output: second}); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(first)
	b, _ := os.ReadFile(second)
	if len(a) == 0 || !bytes.Equal(a, b) {
		t.Error("a squashfs as source is not taken as it is")
	}
}

func TestBuildFromDisk(t *testing.T) {
	root := source(t)
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk.raw")
	part := filepath.Join(dir, "part.ext4")
	for _, line := range [][]string{
		{"truncate", "-s", "24M", part},
		{"mkfs.ext4", "-q", "-d", root, part},
		{"truncate", "-s", "32M", disk},
		{"sh", "-c", "echo 'start=2048, size=49152, type=83' | sfdisk -q " + disk},
		{"dd", "if=" + part, "of=" + disk, "bs=1M", "seek=1", "conv=notrunc", "status=none"},
		{"qemu-img", "convert", "-O", "qcow2", disk, filepath.Join(dir, "disk.qcow2")},
	} {
		if out, err := exec.CommandContext(t.Context(), line[0], line[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", line, err, out)
		}
	}
	for _, name := range []string{"disk.raw", "disk.qcow2"} {
		output := filepath.Join(dir, name+".squashfs")
		if _, err := Build(t.Context(), Options{Source: filepath.Join(dir, name), Output: output}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(unsquash(t, output), "usr/bin/tool")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBuildRefusesWhatIsNoSystem(t *testing.T) {
	output := filepath.Join(t.TempDir(), "x.squashfs")
	_, err := Build(t.Context(), Options{Source: t.TempDir(), Output: output})
	if !errors.Is(err, ErrSource) {
		t.Errorf("error %v, want ErrSource", err)
	}
	if _, err := os.Stat(output); err == nil {
		t.Error("an output was left")
	}
}
