//go:build component

package ramdisk

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCopyToLoopDevice(t *testing.T) {
	dir := t.TempDir()
	device, ram := filepath.Join(dir, "device"), filepath.Join(dir, "ram")
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if err := os.WriteFile(device, data, 0o600); err != nil {
		t.Fatal(err)
	}
	loop, err := Copy(t.Context(), device, ram, uint64(len(data)), func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(ram, unix.MNT_DETACH)
	f, err := os.Open(loop)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	defer unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
	got := make([]byte, len(data)+1)
	n, err := f.Read(got)
	if err != nil || n != len(data) || !bytes.Equal(got[:n], data) {
		t.Errorf("the device gives %d bytes, %v", n, err)
	}
	w, err := os.OpenFile(loop, os.O_WRONLY, 0)
	if err == nil {
		_, err = w.Write([]byte("x"))
		w.Close()
	}
	if err == nil {
		t.Error("the device can be written")
	}
}
