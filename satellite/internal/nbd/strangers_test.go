//go:build component

package nbd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// run runs somebody else's program and returns its output; a missing program fails the test.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = &stderr
	// The distribution's programs before any other: nbdsh needs the Python that libnbd was built for.
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin:"+os.Getenv("PATH"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out)
}

// strangers starts a server with a file of an odd size and one without a file, as clients find them.
func strangers(t *testing.T) (h *harness, uri func(name string) string, data []byte) {
	t.Helper()
	data = randomBytes(17<<20 + 4096)
	h = start(t, Config{}, newFileExport(t, "lab@1", data, 8192),
		&memExport{info: ExportInfo{Name: "memory", Description: "no file", Size: int64(len(data))}, data: data})
	return h, func(name string) string { return "nbd://" + h.addr + "/" + name }, data
}

func TestNbdinfo(t *testing.T) {
	h, uri, data := strangers(t)
	type export struct {
		Name        string `json:"export-name"`
		Description string `json:"description"`
		Size        int64  `json:"export-size"`
		ReadOnly    bool   `json:"is_read_only"`
		MultiConn   bool   `json:"can_multi_conn"`
		Flush       bool   `json:"can_flush"`
		Minimum     int    `json:"block_size_minimum"`
		Preferred   int    `json:"block_size_preferred"`
		Maximum     int    `json:"block_size_maximum"`
	}
	type info struct {
		Protocol string   `json:"protocol"`
		Exports  []export `json:"exports"`
	}
	file := export{"lab@1", "a file", int64(len(data)), true, true, false, 1, preferredBlock, maxPayload}
	memory := export{"memory", "no file", int64(len(data)), true, true, false, 1, preferredBlock, maxPayload}
	for _, tt := range []struct {
		args []string
		want []export
	}{
		{[]string{"--json", uri("lab@1")}, []export{file}},
		{[]string{"--json", uri("memory")}, []export{memory}},
		{[]string{"--json", "--list", "nbd://" + h.addr}, []export{file, memory}},
	} {
		var got info
		if err := json.Unmarshal([]byte(run(t, "nbdinfo", tt.args...)), &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Exports) == 2 && got.Exports[0].Name == "memory" {
			got.Exports[0], got.Exports[1] = got.Exports[1], got.Exports[0]
		}
		if diff := cmp.Diff(info{"newstyle-fixed", tt.want}, got); diff != "" {
			t.Errorf("nbdinfo %v (-want +got):\n%s", tt.args, diff)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "nbdinfo", uri("absent")).CombinedOutput(); err == nil || !strings.Contains(string(out), "No such file or directory") {
		t.Errorf("nbdinfo of an absent export: %v, %s", err, out)
	}
}

func TestNbdcopy(t *testing.T) {
	_, uri, data := strangers(t)
	want := sha256.Sum256(data)
	for _, name := range []string{"lab@1", "memory"} {
		for _, args := range [][]string{nil, {"--connections=4"}, {"--synchronous"}, {"--connections=1", "--requests=128", "--request-size=65536"}} {
			out := filepath.Join(t.TempDir(), "copy")
			run(t, "nbdcopy", append(args, uri(name), out)...)
			got, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if sha256.Sum256(got) != want {
				t.Errorf("nbdcopy %v of %s: %d bytes that differ", args, name, len(got))
			}
		}
	}
}

func TestQemuImg(t *testing.T) {
	_, uri, data := strangers(t)
	for _, name := range []string{"lab@1", "memory"} {
		var info struct {
			Size int64 `json:"virtual-size"`
		}
		if err := json.Unmarshal([]byte(run(t, "qemu-img", "info", "--output=json", uri(name))), &info); err != nil {
			t.Fatal(err)
		}
		if info.Size != int64(len(data)) {
			t.Errorf("qemu-img info of %s: %d bytes, want %d", name, info.Size, len(data))
		}
		out := filepath.Join(t.TempDir(), "copy")
		run(t, "qemu-img", "convert", "-O", "raw", uri(name), out)
		got, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, data) {
			t.Errorf("qemu-img convert of %s differs", name)
		}
		run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", uri(name), out)
	}
}

// TestNbdsh drives libnbd step by step: every handshake it knows, random reads, refused commands.
func TestNbdsh(t *testing.T) {
	h, _, data := strangers(t)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, data, 0o600); err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(h.addr)
	if err != nil {
		t.Fatal(err)
	}
	const script = `
import errno, random
data = open(%q, "rb").read()
random.seed(1)
for name in ("lab@1", "memory"):
    for flags in (0, nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE, nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE | nbd.HANDSHAKE_FLAG_NO_ZEROES):
        h = nbd.NBD()
        h.set_strict_mode(0)
        h.set_handshake_flags(flags)
        h.set_export_name(name)
        h.connect_tcp(%q, %q)
        assert h.get_size() == len(data)
        assert h.get_protocol() == ("newstyle-fixed" if flags else "newstyle")
        for i in range(300):
            n = random.choice((1, 511, 512, 4096, 20000, 32768, 32769, 131072, 1 << 20))
            off = random.randrange(len(data) - n)
            assert h.pread(n, off) == data[off:off+n]
        for want, what in ((errno.EPERM, lambda: h.pwrite(b"x" * 100000, 0)), (errno.EPERM, lambda: h.trim(4096, 0)),
                           (errno.EPERM, lambda: h.zero(4096, 0)), (errno.EINVAL, lambda: h.pread(512, len(data))),
                           (errno.EINVAL, lambda: h.cache(512, 0))):
            try:
                what()
                raise SystemExit("no error")
            except nbd.Error as e:
                assert e.errnum == want, e
        h.flush()
        assert h.pread(512, 0) == data[:512]
        h.shutdown()
print("fine")
`
	if out := run(t, "nbdsh", "-c", fmt.Sprintf(script, disk, host, port)); out != "fine\n" {
		t.Errorf("nbdsh: %s", out)
	}
}

// TestConnectStorm: all connects of one instant become ready, none hangs.
func TestConnectStorm(t *testing.T) {
	const clients = 500
	h := start(t, Config{MaxPerAddr: -1}, newFileExport(t, "lab", randomBytes(4096), 0))
	for round := range 5 {
		conns := dialMany(t, h.addr, "lab", clients, clients)
		for i, c := range conns {
			cl := &client{t, c}
			if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if cl.read(0, 512); t.Failed() {
				t.Fatalf("client %d", i)
			}
		}
		if n := len(h.Connections()); n != clients {
			t.Errorf("round %d: %d connections, want %d", round, n, clients)
		}
		for _, c := range conns {
			_ = c.Close()
		}
		eventually(t, func() bool { return len(h.Connections()) == 0 })
	}
}

// TestVanishedClient: a PC whose cable is pulled frees its slot, idle or in the middle of a reply; an idle PC with a cable keeps its.
func TestVanishedClient(t *testing.T) {
	ns := fmt.Sprintf("ltspnbd%d", os.Getpid())
	for _, side := range []string{"s", "a", "b"} {
		run(t, "ip", "netns", "add", ns+side)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns+side).Run() })
		run(t, "ip", "-n", ns+side, "link", "set", "lo", "up")
	}
	for i, side := range []string{"a", "b"} {
		run(t, "ip", "-n", ns+"s", "link", "add", "to"+side, "type", "veth", "peer", "name", "eth0", "netns", ns+side)
		run(t, "ip", "-n", ns+"s", "addr", "add", fmt.Sprintf("10.99.%d.1/24", i), "dev", "to"+side)
		run(t, "ip", "-n", ns+side, "addr", "add", fmt.Sprintf("10.99.%d.2/24", i), "dev", "eth0")
		run(t, "ip", "-n", ns+"s", "link", "set", "to"+side, "up")
		run(t, "ip", "-n", ns+side, "link", "set", "eth0", "up")
	}
	shelf := &shelf{exports: map[string]Export{"lab": newFileExport(t, "lab", randomBytes(maxPayload), 0)}}
	srv, err := New(Config{Exports: shelf})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var ln net.Listener
	within(t, ns+"s", func() {
		ln, err = listen(ctx, "0.0.0.0:10809", nil, liveness{time.Second, time.Second, 3 * time.Second})
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(ctx, ln); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })

	connect := func(side, addr string) *client {
		var c net.Conn
		within(t, ns+side, func() { c, err = dialExport(addr, "lab") })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return &client{t, c}
	}
	connect("a", "10.99.0.1:10809")
	busy := connect("a", "10.99.0.1:10809")
	stays := connect("b", "10.99.1.1:10809")
	busy.send(appendRequest(nil, request{command: cmdRead, length: maxPayload}))
	busy.receive(replySize) // the rest fills the sockets
	if n := len(srv.Connections()); n != 3 {
		t.Fatalf("%d connections", n)
	}
	run(t, "ip", "-n", ns+"a", "link", "set", "eth0", "down") // no FIN, no RST
	eventually(t, func() bool { return len(srv.Connections()) == 1 })
	if err := stays.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	stays.read(0, 4096)
}

// within runs f on a thread that is in a network namespace.
func within(t *testing.T, name string, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		// The thread is not unlocked: it ends with the goroutine instead of serving others in the wrong namespace.
		runtime.LockOSThread()
		fd, err := unix.Open("/run/netns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			_ = unix.Close(fd)
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("enter network namespace %s: %v", name, err)
	}
}
