//go:build component

package nbdclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestNbdkit opens exports of nbdkit and reads a block through the socket as the kernel would.
func TestNbdkit(t *testing.T) {
	dir := t.TempDir()
	content := bytes.Repeat([]byte("ltsp"), 4096)
	if err := os.WriteFile(filepath.Join(dir, "lab@00"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	addr := startNbdkit(ctx, t, "-r", "file", "dir="+dir)
	size := uint64(len(content))
	file, info, err := Open(ctx, Target{Addr: addr, Export: "lab@00", SizeBytes: size})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := info.Check(size); err != nil {
		t.Error(err)
	}
	if got := readBlock(t, file, 4, 8); string(got) != "ltspltsp" {
		t.Errorf("read %q", got)
	}
	if _, _, err := Open(ctx, Target{Addr: addr, Export: "lab@01", SizeBytes: size}); !errors.Is(err, ErrRefused) {
		t.Errorf("unknown export: got %v", err)
	}
	if _, _, err := Open(ctx, Target{Addr: addr, Export: "lab@00", SizeBytes: size + 4096}); !errors.Is(err, ErrWrongExport) {
		t.Errorf("wrong size: got %v", err)
	}
	writable := startNbdkit(ctx, t, "memory", "1M")
	if _, _, err := Open(ctx, Target{Addr: writable, SizeBytes: 1 << 20}); !errors.Is(err, ErrWrongExport) {
		t.Errorf("writable export: got %v", err)
	}
}

// startNbdkit returns the address once it answers.
func startNbdkit(ctx context.Context, t *testing.T, args ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	cmd := exec.CommandContext(ctx, "nbdkit", append([]string{"-f", "-i", "127.0.0.1", "-p", port}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			conn.Close()
			return addr
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// readBlock sends one NBD_CMD_READ (NBD proto.md, "Transmission phase").
func readBlock(t *testing.T, conn io.ReadWriter, offset uint64, n uint32) []byte {
	t.Helper()
	const requestMagic, replyMagic, cookie = 0x25609513, 0x67446698, 42
	if _, err := conn.Write(be(uint32(requestMagic), uint16(0), uint16(0), uint64(cookie), offset, n)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16+n)
	if _, err := io.ReadFull(conn, b); err != nil {
		t.Fatal(err)
	}
	if binary.BigEndian.Uint32(b) != replyMagic || binary.BigEndian.Uint32(b[4:]) != 0 || binary.BigEndian.Uint64(b[8:]) != cookie {
		t.Fatalf("reply header %x", b[:16])
	}
	return b[16:]
}
