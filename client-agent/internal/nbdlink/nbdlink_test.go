package nbdlink

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/netlink"
)

var device = Device{
	Index: 3, SizeBytes: 409600, BlockSize: 4096, Flags: 3,
	Timeout: 4500 * time.Millisecond, DeadTimeout: 10 * time.Minute, Backend: "4f1c",
}

// driver records requests and answers with err.
type driver struct {
	kind uint16
	data []byte
	err  error
}

func (d *driver) Execute(kind uint16, _ uint16, data []byte) ([]netlink.Message, error) {
	d.kind, d.data = kind, append([]byte(nil), data...)
	return nil, d.err
}

func request(t *testing.T, do func(*Link, *os.File) error) (uint8, map[uint16]netlink.Attr, uint32) {
	t.Helper()
	sock, peer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	defer sock.Close()
	d := &driver{}
	if err := do(&Link{exec: d, family: netlink.Family{ID: 27}}, sock); err != nil {
		t.Fatal(err)
	}
	if d.kind != 27 {
		t.Errorf("sent to family %d", d.kind)
	}
	command, list, err := netlink.ParseGeneric(d.data)
	if err != nil {
		t.Fatal(err)
	}
	attrs := map[uint16]netlink.Attr{}
	for _, a := range list {
		attrs[a.Type] = a
	}
	return command, attrs, uint32(sock.Fd())
}

func TestConnect(t *testing.T) {
	t.Parallel()
	command, attrs, fd := request(t, func(l *Link, sock *os.File) error { return l.Connect(device, sock) })
	if command != cmdConnect {
		t.Errorf("command %d", command)
	}
	got := map[uint16]uint64{}
	for _, kind := range []uint16{attrSize, attrBlockSize, attrTimeout, attrServerFlags, attrDeadTimeout} {
		got[kind] = binary.NativeEndian.Uint64(attrs[kind].Data)
	}
	want := map[uint16]uint64{attrSize: 409600, attrBlockSize: 4096, attrTimeout: 5, attrServerFlags: 3, attrDeadTimeout: 600}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if index, _ := attrs[attrIndex].Uint32(); index != 3 || attrs[attrBackend].String() != "4f1c" {
		t.Errorf("index %d, backend %q", index, attrs[attrBackend])
	}
	items, err := netlink.ParseAttrs(attrs[attrSockets].Data)
	if err != nil || len(items) != 1 {
		t.Fatalf("sockets %v, %v", items, err)
	}
	fds, err := netlink.ParseAttrs(items[0].Data)
	if err != nil || len(fds) != 1 {
		t.Fatalf("socket %v, %v", fds, err)
	}
	if got, _ := fds[0].Uint32(); got != fd {
		t.Errorf("fd %d, want %d", got, fd)
	}
}

func TestReconfigureLeavesGeometryOut(t *testing.T) {
	t.Parallel()
	command, attrs, _ := request(t, func(l *Link, sock *os.File) error { return l.Reconfigure(device, sock) })
	if command != cmdReconfigure {
		t.Errorf("command %d", command)
	}
	for _, kind := range []uint16{attrSize, attrBlockSize, attrServerFlags} {
		if _, ok := attrs[kind]; ok {
			t.Errorf("attribute %d is sent", kind)
		}
	}
	if attrs[attrBackend].String() != "4f1c" {
		t.Error("without the backend the kernel refuses")
	}
}

func TestDisconnect(t *testing.T) {
	t.Parallel()
	command, attrs, _ := request(t, func(l *Link, _ *os.File) error { return l.Disconnect(3) })
	if index, _ := attrs[attrIndex].Uint32(); command != cmdDisconnect || index != 3 || len(attrs) != 1 {
		t.Errorf("command %d of %v", command, attrs)
	}
	if err := (&Link{exec: &driver{err: unix.EINVAL}}).Disconnect(3); !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v, want the kernel's error", err)
	}
}

func TestRequestErrors(t *testing.T) {
	t.Parallel()
	l := &Link{exec: &driver{err: unix.EBUSY}}
	if err := l.Connect(device, os.Stdin); !errors.Is(err, unix.EBUSY) {
		t.Errorf("got %v, want the kernel's error", err)
	}
	for _, d := range []Device{{Timeout: time.Second}, {DeadTimeout: time.Second}} {
		if err := (&Link{exec: &driver{}}).Connect(d, os.Stdin); err == nil {
			t.Errorf("%+v was accepted", d)
		}
	}
}

func TestDeadIndex(t *testing.T) {
	t.Parallel()
	var a netlink.Attrs
	a.Uint32(attrIndex, 7)
	tests := []struct {
		name string
		data []byte
		want uint32
		ok   bool
	}{
		{"dead", netlink.Generic(cmdLinkDead, 1, a.Bytes()), 7, true},
		{"other command", netlink.Generic(5, 1, a.Bytes()), 0, false},
		{"no index", netlink.Generic(cmdLinkDead, 1, nil), 0, false},
		{"malformed", []byte{4, 1, 0, 0, 1}, 0, false},
		{"empty", nil, 0, false},
	}
	for _, tt := range tests {
		if got, ok := deadIndex(tt.data); got != tt.want || ok != tt.ok {
			t.Errorf("%s: got %d, %v", tt.name, got, ok)
		}
	}
}

func TestSetQueue(t *testing.T) {
	t.Parallel()
	sys := t.TempDir()
	queue := filepath.Join(sys, "block/nbd0/queue")
	if err := os.MkdirAll(queue, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := SetQueue(sys, "nbd0", "read_ahead_kb", 128); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(queue, "read_ahead_kb")); err != nil || string(got) != "128" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := SetQueue(sys, "nbd1", "read_ahead_kb", 128); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
