//go:build component

package testvm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testimage"
)

// makeInitrd packs the program of testdata/init.
func makeInitrd(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "init"), "./testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	path := filepath.Join(t.TempDir(), "initrd")
	archive, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	pack := exec.Command("cpio", "--quiet", "-o", "-H", "newc")
	pack.Dir, pack.Stdin, pack.Stdout, pack.Stderr = dir, strings.NewReader("init\n"), archive, os.Stderr
	if err := pack.Run(); err != nil {
		t.Fatalf("cpio: %v", err)
	}
	return path
}

func TestDirectBoot(t *testing.T) {
	kernel, err := testimage.Kernel(t.Context(), testimage.Config{Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	initrd := makeInitrd(t)
	r := newRack(t)
	m := Machine{Kernel: kernel.Image, Initrd: initrd, Append: "console=ttyS0 quiet panic=0"}

	m.Name = "direct"
	vm := start(t, r, m)
	expect(t, vm, `INIT UP pid 1\n`)
	if err := vm.Send("hello there\n"); err != nil {
		t.Fatal(err)
	}
	match := expect(t, vm, `INIT HEARD "(.*)\\n" <nil>\n`)
	if match.Groups[0] != "hello there" {
		t.Errorf("the machine heard %q", match.Groups[0])
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := vm.Wait(ctx); err != nil {
		t.Errorf("power off: %v", err)
	}

	// A kernel panic ends a wait at once instead of at its deadline.
	m.Name = "panic"
	vm = start(t, r, m)
	expect(t, vm, `INIT UP`)
	if err := vm.Send("panic\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Expect(ctx, `never printed`); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("after a panic: %v", err)
	}
}

// TestUEFIDirectBoot checks that a kernel can be started from UEFI firmware too, without the network.
func TestUEFIDirectBoot(t *testing.T) {
	kernel, err := testimage.Kernel(t.Context(), testimage.Config{Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	vm := start(t, newRack(t), Machine{Name: "direct", Firmware: UEFI, Kernel: kernel.Image, Initrd: makeInitrd(t), Append: "console=ttyS0"})
	expect(t, vm, `efi: EFI v2`)
	expect(t, vm, `INIT UP pid 1`)
}
