package dmverity

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// mapper records the requests and answers as the kernel does: with the device number, and for a status request with a text.
type mapper struct {
	calls  []string
	fail   uint
	status string
}

func (m *mapper) Ioctl(request uint, buf []byte) error {
	var h unix.DmIoctl
	if _, err := binary.Decode(buf, binary.NativeEndian, &h); err != nil {
		return err
	}
	name := map[uint]string{unix.DM_DEV_CREATE: "create", unix.DM_TABLE_LOAD: "load", unix.DM_DEV_SUSPEND: "resume",
		unix.DM_DEV_REMOVE: "remove", unix.DM_TABLE_STATUS: "status"}[request]
	text := name + " " + unix.ByteSliceToString(h.Name[:])
	if h.Target_count == 1 {
		var spec unix.DmTargetSpec
		if _, err := binary.Decode(buf[h.Data_start:], binary.NativeEndian, &spec); err != nil {
			return err
		}
		text += " " + unix.ByteSliceToString(spec.Target_type[:]) + " " + unix.ByteSliceToString(buf[int(h.Data_start)+specLen:])
		if spec.Length != 800 {
			text += " with a wrong length"
		}
	}
	m.calls = append(m.calls, text)
	if request == m.fail {
		return unix.EINVAL
	}
	h.Dev = unix.Mkdev(253, 5)
	if request == unix.DM_TABLE_STATUS && m.status != "" {
		h.Target_count = 1
		copy(buf[int(h.Data_start)+specLen:], m.status+"\x00")
	}
	copy(buf, encode(h))
	return nil
}

var (
	root  = strings.Repeat("0123456789abcdef", 4)
	table = Table{Device: "/dev/nbd0", DataBytes: 409600, Root: root}
)

func TestLayout(t *testing.T) {
	t.Parallel()
	if headerLen != 312 || specLen != 40 {
		t.Errorf("structures of %d and %d bytes, the kernel's have 312 and 40", headerLen, specLen)
	}
}

func TestCreate(t *testing.T) {
	t.Parallel()
	m := &mapper{}
	path, err := Create(m, "ltsp-root", table)
	if err != nil {
		t.Fatal(err)
	}
	if path != "/dev/dm-5" {
		t.Errorf("got %s", path)
	}
	want := []string{
		"create ltsp-root",
		"load ltsp-root verity 1 /dev/nbd0 /dev/nbd0 4096 4096 100 100 sha256 " + root + " -",
		"resume ltsp-root",
	}
	if diff := cmp.Diff(want, m.calls); diff != "" {
		t.Error(diff)
	}
}

func TestCreateCleansUp(t *testing.T) {
	t.Parallel()
	for _, fail := range []uint{unix.DM_TABLE_LOAD, unix.DM_DEV_SUSPEND} {
		m := &mapper{fail: fail}
		if _, err := Create(m, "ltsp-root", table); !errors.Is(err, unix.EINVAL) {
			t.Errorf("got %v, want the kernel's error", err)
		}
		if last := m.calls[len(m.calls)-1]; last != "remove ltsp-root" {
			t.Errorf("last call %q, want the device removed", last)
		}
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	m := &mapper{}
	other := table
	other.Device = "/dev/loop0"
	if err := Replace(m, "ltsp-root", other); err != nil {
		t.Fatal(err)
	}
	want := []string{"load ltsp-root verity 1 /dev/loop0 /dev/loop0 4096 4096 100 100 sha256 " + root + " -", "resume ltsp-root"}
	if diff := cmp.Diff(want, m.calls); diff != "" {
		t.Error(diff)
	}
	m = &mapper{fail: unix.DM_TABLE_LOAD}
	if err := Replace(m, "ltsp-root", other); !errors.Is(err, unix.EINVAL) || len(m.calls) != 1 {
		t.Errorf("a refused table: %v, %v", err, m.calls)
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]Table{
		"data":       {Device: "/dev/nbd0", DataBytes: 4097, Root: root},
		"no data":    {Device: "/dev/nbd0", Root: root},
		"root":       {Device: "/dev/nbd0", DataBytes: 4096, Root: root[1:]},
		"root words": {Device: "/dev/nbd0", DataBytes: 4096, Root: root[:58] + " 1 opt"},
	} {
		m := &mapper{}
		if _, err := Create(m, "x", bad); err == nil || m.calls != nil {
			t.Errorf("%s: got %v, calls %v", name, err, m.calls)
		}
	}
}

func TestCorrupted(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]bool{"V": false, "C": true} {
		if got, err := Corrupted(&mapper{status: status}, "x"); err != nil || got != want {
			t.Errorf("%s: got %v, %v", status, got, err)
		}
	}
	if _, err := Corrupted(&mapper{}, "x"); err == nil {
		t.Error("an answer without a target gave no error")
	}
	if _, err := Corrupted(&mapper{fail: unix.DM_TABLE_STATUS}, "x"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v", err)
	}
}
