//go:build component

package testimage

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
)

// TestRootBoots starts the whole root as an initrd, which needs no driver, and works in it as a person at the serial
// console would.
func TestRootBoots(t *testing.T) {
	archive, err := Build(t.Context(), Config{Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := Unpack(t.Context(), archive, root); err != nil {
		t.Fatal(err)
	}
	kernel, err := inspectKernel(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sbin/init", filepath.Join(root, "init")); err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(t.TempDir(), "initrd")
	pack := exec.Command("sh", "-c", `cd "$0" && find . -path ./boot -prune -o -print0 | cpio --quiet --null -o -H newc >"$1"`, root, initrd)
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	rack, err := testvm.New(t.Context(), testvm.Config{Dir: t.TempDir(), Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	defer rack.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	vm, err := rack.Start(ctx, testvm.Machine{
		Name: "root", MemoryMiB: 1536, Kernel: kernel.Image, Initrd: initrd, Append: "console=ttyS0 mitigations=off audit=0",
	})
	if err != nil {
		t.Fatal(err)
	}
	match, err := vm.Expect(ctx, `root@\S+:~#`)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s after %v, %v CPU", match.Text, match.At, vm.CPU())
	if err := vm.Send("systemctl is-system-running --wait; systemctl --failed --no-legend; systemctl list-units --type=service --no-legend --no-pager --plain; echo IS=$(systemctl is-system-running)=\n"); err != nil {
		t.Fatal(err)
	}
	match, err = vm.Expect(ctx, `IS=([a-z]+)=`)
	if err != nil {
		t.Fatal(err)
	}
	if match.Groups[0] != "running" {
		t.Errorf("the system is %s:\n%s", match.Groups[0], vm.Tail(60))
	}
	t.Log(vm.Tail(60))
	if err := vm.Send("poweroff\n"); err != nil {
		t.Fatal(err)
	}
	if err := vm.Wait(ctx); err != nil {
		t.Error(err)
	}
}
