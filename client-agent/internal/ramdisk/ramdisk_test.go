package ramdisk

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheckRoom(t *testing.T) {
	t.Parallel()
	const meminfo = "MemTotal:        1000000 kB\nMemFree: 1 kB\nMemAvailable:     524288 kB\n" // 512 MiB
	for _, tt := range []struct {
		meminfo string
		mib     uint64
		ok      bool
	}{
		{meminfo, 0, true}, {meminfo, 256, true}, {meminfo, 257, false}, {meminfo, 1 << 20, false}, {"", 1, false}, {"MemAvailable: x kB\n", 1, false},
	} {
		err := CheckRoom(tt.meminfo, tt.mib<<20)
		if (err == nil) != tt.ok || tt.meminfo == meminfo && !tt.ok && !errors.Is(err, ErrNoRoom) {
			t.Errorf("%d MiB of %q: %v", tt.mib, tt.meminfo, err)
		}
	}
}

func TestFill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	device, copied := filepath.Join(dir, "device"), filepath.Join(dir, "copy")
	data := bytes.Repeat([]byte("0123456789abcdef"), 5<<16) // 5 MiB
	if err := os.WriteFile(device, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var told []int
	const size = 4<<20 + 4096
	if err := fill(t.Context(), device, copied, size, func(percent int) { told = append(told, percent) }); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(copied); err != nil || !bytes.Equal(got, data[:size]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if diff := cmp.Diff([]int{24, 49, 74, 99, 100}, told); diff != "" {
		t.Error(diff)
	}
	if err := fill(t.Context(), device, copied, size, func(int) {}); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second time: %v", err)
	}
	if err := fill(t.Context(), device, copied+"2", 6<<20, func(int) {}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a device that is too small: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := fill(ctx, device, copied+"3", size, func(int) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
