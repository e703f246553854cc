//go:build component

package applet

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
)

// swapDisk makes a disk with one partition of swap.
func swapDisk(t *testing.T) string {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "swap.raw")
	script := `set -e
truncate -s 64M "$1"
printf 'start=2048, type=82\n' | sfdisk -q "$1"
truncate -s 63M "$1.part"
mkswap -q "$1.part"
dd if="$1.part" of="$1" bs=1M seek=1 conv=notrunc status=none
rm "$1.part"
`
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", script, "swapdisk", disk).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return disk
}

// TestRootBoots starts a root that the applet has worked on, whole as an initrd, and looks at the running system.
func TestRootBoots(t *testing.T) {
	root := debianRoot(t)
	conf := strings.Replace(schoolConf, "FSTAB_HOME=", "NO_FSTAB=", 1) // there is no NFS server
	result, err := Run(t.Context(), schoolConfig(root, conf))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range result.Failures {
		t.Errorf("%s: %s: %s", f.Step, f.Name, f.Error)
	}
	// What is in /run is on a tmpfs, which init takes over; here init is told to make it again.
	pack := `set -e
cd "$1"
mkdir run.kept
cp -a run/. run.kept/
umount -l run dev proc sys
printf '#!/bin/sh\nmount -t tmpfs -o mode=755 tmpfs /run\ncp -a /run.kept/. /run/\nexec /sbin/init\n' >init
chmod 755 init
find . -path ./boot -prune -o -print0 | cpio --quiet --null -o -H newc >"$2"
`
	initrd := filepath.Join(t.TempDir(), "initrd")
	kernel, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if err != nil || len(kernel) != 1 {
		t.Fatalf("kernels: %v, %v", kernel, err)
	}
	if out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-c", pack, "pack", root, initrd).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	rack, err := testvm.New(t.Context(), testvm.Config{Dir: t.TempDir(), Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	defer rack.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	vm, err := rack.Start(ctx, testvm.Machine{
		Name: "root", MemoryMiB: 2048, Kernel: kernel[0], Initrd: initrd, Append: "console=ttyS0 mitigations=off audit=0 quiet",
		ExtraArgs: []string{"-drive", "file=" + swapDisk(t) + ",format=raw,if=virtio"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Expect(ctx, `root@pc07:~#`); err != nil {
		t.Fatal(err)
	}
	// Each answer ends in a line of its own; the shell shows the command with other words.
	for i, tt := range []struct{ command, want string }{
		{"systemctl is-system-running --wait", "running"},
		{"systemctl --failed --no-legend | wc -l", "0"},
		{"id -nG guest07", "guest07 class ltspdm"},
		{"getent hosts server | tr -s ' '", "192.168.67.1 server"},
		{"cut -c-12 /etc/machine-id", "525400670014"},
		{"systemctl show -P DefaultTimeoutStopUSec", "10s"},
		{"ls /var/log/journal | wc -l; ls /run/log/journal | wc -l", "0 1"},
		{"systemctl is-active rsyslog cron | tr '\\n' ' '", "inactive active"},
		{"sed -n 's/^\\(.dev.vda1\\) .*/\\1/p' /proc/swaps", "/dev/vda1"},
	} {
		mark := "answer" + string(rune('A'+i))
		if err := vm.Send("echo; echo " + mark[:3] + "''" + mark[3:] + "=$(echo $(" + tt.command + "))=\n"); err != nil {
			t.Fatal(err)
		}
		match, err := vm.Expect(ctx, mark+`=([^=\r\n]*)=`)
		if err != nil {
			t.Fatalf("%s: %v\n%s", tt.command, err, vm.Tail(40))
		}
		if got := strings.TrimSpace(match.Groups[0]); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.command, got, tt.want)
		}
	}
	if t.Failed() {
		t.Log(vm.Tail(60))
	}
	if err := vm.Send("poweroff\n"); err != nil {
		t.Fatal(err)
	}
	if err := vm.Wait(ctx); err != nil {
		t.Error(err)
	}
	if err := os.Remove(initrd); err != nil {
		t.Error(err)
	}
}
