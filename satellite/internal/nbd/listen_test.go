package nbd

import (
	"net"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestListenOptions checks that accepted sockets inherit what the listening one was given.
func TestListenOptions(t *testing.T) {
	t.Parallel()
	ln, err := Listen(t.Context(), "127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	var algorithm string
	if err := raw.Control(func(fd uintptr) {
		for name, o := range map[string][2]int{
			"keepalive": {unix.SOL_SOCKET, unix.SO_KEEPALIVE}, "idle": {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
			"interval": {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}, "count": {unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
			"user timeout": {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT}, "no delay": {unix.IPPROTO_TCP, unix.TCP_NODELAY},
		} {
			got[name], _ = unix.GetsockoptInt(int(fd), o[0], o[1])
		}
		algorithm, _ = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	}); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"keepalive": 1, "idle": 20, "interval": 10, "count": 4, "user timeout": 45000, "no delay": 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(algorithm) >= 3 && algorithm[:3] == "bbr" && os.Getuid() == 0 {
		t.Errorf("congestion control is %s", algorithm)
	}
}

func TestListenError(t *testing.T) {
	t.Parallel()
	if _, err := Listen(t.Context(), "192.0.2.1:0", nil); err == nil {
		t.Error("no error for an address that is not ours")
	}
}
