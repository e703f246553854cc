package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBoard(t *testing.T) {
	changes := 0
	b := &Board{Changed: func() { changes++ }}
	b.Set("disk", "the disk is full")
	b.Set("port", "port 80 is taken")
	b.Set("port", "port 80 is taken")
	b.Set("none", "")
	if diff := cmp.Diff([]string{"the disk is full", "port 80 is taken"}, b.Lines()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	b.Set("disk", "")
	b.Set("port", "port 81 is taken")
	if diff := cmp.Diff([]string{"port 81 is taken"}, b.Lines()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if changes != 4 {
		t.Errorf("%d changes told, want 4", changes)
	}
}

func TestBoardIsBounded(t *testing.T) {
	var b Board
	for i := range 10 * maxKeys {
		b.Set(fmt.Sprint(i), "problem")
	}
	lines := b.Lines()
	if len(lines) != MaxLines || lines[MaxLines-1] != fmt.Sprintf("and %d more problems", maxKeys-MaxLines+1) {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}

func TestPortOwner(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	if got, want := PortOwner("tcp", port), fmt.Sprintf("(process %d)", os.Getpid()); !strings.HasSuffix(got, want) {
		t.Errorf("owner %q, want %q", got, want)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := PortOwner("tcp", port); got != "" {
		t.Errorf("owner of a free port: %q", got)
	}
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if got := PortOwner("udp", uint16(u.LocalAddr().(*net.UDPAddr).Port)); !strings.Contains(got, fmt.Sprint(os.Getpid())) {
		t.Errorf("owner of a UDP port: %q", got)
	}
}

func TestStatusSocket(t *testing.T) {
	dir := t.TempDir()
	if _, err := Query(t.Context(), dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("nobody there: %v", err)
	}
	want := Status{Site: "hill", Revision: 3, Versions: []Version{{Image: "lab", Number: 2}}, Clients: map[string]int{"healthy": 2}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, dir, func() Status { return want }) }()
	var got Status
	err := ErrNotRunning
	for deadline := time.Now().Add(30 * time.Second); errors.Is(err, ErrNotRunning) && time.Now().Before(deadline); {
		got, err = Query(t.Context(), dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("end: %v", err)
	}
}
