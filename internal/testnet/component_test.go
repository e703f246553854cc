//go:build component

package testnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary stand in for a program that makes a lab and is killed.
func TestMain(m *testing.M) {
	if os.Getenv("TESTNET_ROLE") == "abandon" {
		abandon()
	}
	os.Exit(m.Run())
}

// abandon makes a lab with a process whose own child escapes the group and the parent's death signal, says so and waits.
func abandon() {
	lab, err := New(context.Background(), Config{Prefix: "tnstale"})
	if err == nil {
		var host *Host
		if host, err = lab.Host("h1"); err == nil {
			_, err = host.Start(context.Background(), Proc{Path: "sh", Args: []string{"-c", "setsid sleep 601 & echo up >&2; wait"}, LogFile: "/dev/stdout"})
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	select {}
}

func newLab(t *testing.T, prefix string) *Lab {
	t.Helper()
	lab, err := New(t.Context(), Config{Prefix: prefix, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// twoHosts is a server at 10.9.0.1 and a client at 10.9.0.2 on one bridge.
func twoHosts(t *testing.T) (lan *Bridge, server, client *Host) {
	t.Helper()
	lab := newLab(t, "tn")
	lan, err := lab.Bridge("lan")
	if err != nil {
		t.Fatal(err)
	}
	if server, err = lab.Host("server", lan.At("10.9.0.1/24", "fd09::1/64")); err != nil {
		t.Fatal(err)
	}
	if client, err = lab.Host("client", lan.At("10.9.0.2/24", "fd09::2/64")); err != nil {
		t.Fatal(err)
	}
	return lan, server, client
}

func serveHTTP(t *testing.T, h *Host, address, body string) {
	t.Helper()
	listener, err := h.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) })}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-ended })
}

func get(ctx context.Context, h *Host, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := h.HTTPClient().Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// eventually asks again until the answer is body; a network that has just come back may lose the first try.
func eventually(t *testing.T, h *Host, url, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		try, stop := context.WithTimeout(ctx, 2*time.Second)
		got, err := get(try, h, url)
		stop()
		if err == nil && got == body {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: %q, %v", url, got, err)
		}
	}
}

func unreachable(t *testing.T, h *Host, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if got, err := get(ctx, h, url); err == nil {
		t.Errorf("%s answers %q over a dead link", url, got)
	}
}

func TestHostsReachEachOther(t *testing.T) {
	_, server, client := twoHosts(t)
	serveHTTP(t, server, "10.9.0.1:80", "four")
	serveHTTP(t, server, "[fd09::1]:80", "six")
	for url, want := range map[string]string{"http://10.9.0.1/": "four", "http://[fd09::1]/": "six"} {
		if got, err := get(t.Context(), client, url); err != nil || got != want {
			t.Errorf("%s: %q, %v", url, got, err)
		}
	}
	// Somebody else's program, started inside.
	got, err := client.Output(t.Context(), "curl", "-s", "--noproxy", "*", "http://10.9.0.1/")
	if err != nil || string(got) != "four" {
		t.Errorf("curl: %q, %v", got, err)
	}
	if _, err := client.Output(t.Context(), "curl", "-s", "--noproxy", "*", "http://10.9.0.1:81/"); err == nil {
		t.Error("curl reports success on a closed port")
	}
}

func TestMachineIsLeftAlone(t *testing.T) {
	before, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	lan, _, _ := twoHosts(t)
	if _, err := lan.Tap("vm0"); err != nil {
		t.Fatal(err)
	}
	after, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, i := range before {
		known[i.Name] = true
	}
	for _, i := range after {
		if !known[i.Name] && (i.Name == "lan" || i.Name == "vm0" || strings.HasSuffix(i.Name, "-lan")) {
			t.Errorf("interface %s appeared in the namespace of the machine", i.Name)
		}
	}
}

func TestLinkLocalAtOnce(t *testing.T) {
	_, server, _ := twoHosts(t)
	err := server.Do(t.Context(), func() error {
		out, err := exec.Command("ip", "-6", "addr", "show", "dev", "lan", "scope", "link").CombinedOutput()
		if err == nil && (!strings.Contains(string(out), "fe80::") || strings.Contains(string(out), "tentative")) {
			err = fmt.Errorf("no usable link-local address: %s", out)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestLinkFaults(t *testing.T) {
	lan, server, client := twoHosts(t)
	serveHTTP(t, server, ":80", "hello")
	const url = "http://10.9.0.1/"
	eventually(t, client, url, "hello")
	for name, cut := range map[string]func(*Bridge) error{"down": server.LinkDown, "black hole": server.Blackhole} {
		if err := cut(lan); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		unreachable(t, client, url)
		if err := server.LinkUp(lan); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		eventually(t, client, url, "hello")
	}
}

func TestRelayBetweenHosts(t *testing.T) {
	lab := newLab(t, "tn")
	var bridges [2]*Bridge
	for i, name := range []string{"wan", "lan"} {
		var err error
		if bridges[i], err = lab.Bridge(name); err != nil {
			t.Fatal(err)
		}
	}
	server, err := lab.Host("server", bridges[0].At("10.9.1.1/24"))
	if err != nil {
		t.Fatal(err)
	}
	line, err := lab.Host("line", bridges[0].At("10.9.1.2/24"), bridges[1].At("10.9.2.1/24"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := lab.Host("client", bridges[1].At("10.9.2.2/24"))
	if err != nil {
		t.Fatal(err)
	}
	serveHTTP(t, server, ":80", strings.Repeat("x", 300_000))
	relay, err := NewRelay(t.Context(), RelayConfig{From: line, Listen: "10.9.2.1:8080", To: line, Target: "10.9.1.1:80", BytesPerSecond: 2 << 20, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	const url = "http://10.9.2.1:8080/"
	if got, err := get(t.Context(), client, url); err != nil || len(got) != 300_000 {
		t.Fatalf("through the relay: %d bytes, %v", len(got), err)
	}
	relay.CutAfter(100_000)
	if got, err := get(t.Context(), client, url); err == nil || len(got) > 100_000 {
		t.Errorf("cut in the middle: %d bytes, %v", len(got), err)
	}
	relay.Restore()
	if got, err := get(t.Context(), client, url); err != nil || len(got) != 300_000 {
		t.Errorf("restored: %d bytes, %v", len(got), err)
	}
}

func TestCapture(t *testing.T) {
	lan, server, client := twoHosts(t)
	serveHTTP(t, server, ":80", strings.Repeat("hello", 100_000))
	file := filepath.Join(t.TempDir(), "lan.pcap")
	capture, err := lan.Capture(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := get(t.Context(), client, "http://10.9.0.1/"); err != nil || len(got) != 500_000 {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := capture.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := capture.Stop(); err != nil {
		t.Errorf("second Stop: %v", err)
	}
	// A stranger reads it: the exchange is there from the first SYN to the last byte.
	text, err := exec.Command("tcpdump", "-r", file, "-n", "-v", "tcp port 80").CombinedOutput()
	if err != nil {
		t.Fatalf("tcpdump: %v\n%s", err, text)
	}
	for _, part := range []string{`Flags \[S\]`, `GET / HTTP/1.1`, `HTTP/1.1 200 OK`, `seq \d+:50\d{4}`} {
		if !regexp.MustCompile(part).Match(text) {
			t.Errorf("no %q in the capture of %d bytes of text", part, len(text))
		}
	}
	if strings.Contains(string(text), "incorrect") {
		t.Error("wrong checksums on the wire")
	}
	if _, err := lan.Capture(t.Context(), filepath.Join(t.TempDir(), "no", "such", "dir")); err == nil {
		t.Error("a capture into a missing directory starts")
	}
}

func TestCaptureEndsWithContextAndFullDisk(t *testing.T) {
	lan, server, client := twoHosts(t)
	serveHTTP(t, server, ":80", "hello")
	ctx, cancel := context.WithCancel(t.Context())
	first, err := lan.Capture(ctx, filepath.Join(t.TempDir(), "a.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if <-first.ended; first.Stop() != nil {
		t.Error(first.Stop())
	}
	full, err := lan.Capture(t.Context(), "/dev/full")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, client, "http://10.9.0.1/", "hello")
	if err := full.Stop(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("full disk: %v", err)
	}
}

func TestLabsRunSideBySide(t *testing.T) {
	first, second := newLab(t, "tn"), newLab(t, "tn")
	if first.Label() == second.Label() {
		t.Fatalf("both are %s", first.Label())
	}
	for _, lab := range []*Lab{first, second} {
		lan, err := lab.Bridge("lan")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lab.Host("host", lan.At("10.9.0.1/24")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCloseKillsAndRemoves(t *testing.T) {
	lab := newLab(t, "tn")
	host, err := lab.Host("host")
	if err != nil {
		t.Fatal(err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p, err := host.Start(context.Background(), Proc{Path: "sh", Args: []string{"-c", "setsid sleep 602 & echo up; wait"}, Stdout: in})
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscan(out, new(string)); err != nil {
		t.Fatal(err)
	}
	if err := lab.Close(); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if n, err := out.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a descendant lives: %d, %v", n, err)
	}
	assertNoNamespaces(t, lab.Label())
	if _, err := lab.Bridge("late"); err == nil {
		t.Error("a closed lab takes bridges")
	}
}

func TestStaleLabIsRemoved(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "TESTNET_ROLE=abandon")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said string
	if _, err := fmt.Fscan(out, &said); err != nil || said != "up" {
		t.Fatalf("the other lab says %q, %v", said, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(namespaceDir, "tnstale-h1")); err != nil {
		t.Fatalf("nothing was left behind: %v", err)
	}
	lab := newLab(t, "tnstale")
	if lab.Label() != "tnstale" {
		t.Errorf("label %s", lab.Label())
	}
	if _, err := lab.Host("h1"); err != nil {
		t.Error(err)
	}
	if out, _ := exec.Command("sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'sleep 601'").Output(); strings.TrimSpace(string(out)) != "1" {
		// grep sees its own shell, which has the words in its command line.
		t.Errorf("the process of the dead lab is still there (%s matches)", strings.TrimSpace(string(out)))
	}
}

func assertNoNamespaces(t *testing.T, label string) {
	t.Helper()
	entries, err := os.ReadDir(namespaceDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), label+"-") {
			t.Errorf("namespace %s is left", entry.Name())
		}
	}
}
