package imagebuild

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDetect(t *testing.T) {
	dir := t.TempDir()
	mbr := make([]byte, 512)
	mbr[510], mbr[511] = 0x55, 0xaa
	tests := []struct {
		name, content string
		want          kind
		fails         bool
	}{
		{name: "a.squashfs", content: "hsqs....", want: kindSquashfs},
		{name: "disk.qcow2", content: "QFI\xfb....", want: kindDisk},
		{name: "disk.img", content: string(mbr), want: kindDisk},
		{name: "root.tar.zst", content: "\x28\xb5\x2f\xfd", want: kindTar},
		{name: "empty", fails: true},
		{name: "text", content: "hello", fails: true},
	}
	for _, tt := range tests {
		path := filepath.Join(dir, tt.name)
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := detect(path)
		if (err != nil) != tt.fails || got != tt.want {
			t.Errorf("detect(%s) = %v, %v", tt.name, got, err)
		}
	}
	if got, err := detect(dir); err != nil || got != kindDirectory {
		t.Errorf("detect(directory) = %v, %v", got, err)
	}
}

func TestParseMounts(t *testing.T) {
	text := strings.Join([]string{
		`22 1 8:1 / / rw - ext4 /dev/sda1 rw`,
		`23 22 0:5 / /proc rw - proc proc rw`,
		`24 22 8:2 / /usr rw shared:1 - ext4 /dev/sda2 rw`,
		`25 24 8:3 / /usr/local\040stuff rw - xfs /dev/sda3 rw`,
		`26 22 8:4 / /home rw - ext4 /dev/sda4 rw`,
		`27 22 8:5 / /boot/efi rw - vfat /dev/sda5 rw`,
		`28 22 8:6 / /srv/chroot/var rw - ext4 /dev/sda6 rw`,
	}, "\n")
	if d := cmp.Diff([]string{"/usr", "/usr/local stuff"}, parseMounts(text, "/")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"/srv/chroot/var"}, parseMounts(text, "/srv/chroot")); d != "" {
		t.Error(d)
	}
}
