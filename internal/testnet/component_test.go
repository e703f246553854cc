//go:build component

package testnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
	both := func(b *Bridge) error { return errors.Join(server.Blackhole(b), server.LinkDown(b)) }
	for name, cut := range map[string]func(*Bridge) error{"down": server.LinkDown, "black hole": server.Blackhole, "both": both} {
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
