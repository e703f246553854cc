//go:build component

package network

import (
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"
)

// TestLookupDNS asks somebody else's name server on the loopback; the first of the two that are known does not answer.
func TestLookupDNS(t *testing.T) {
	const dead, alive = "127.67.0.54", "127.67.0.53"
	cmd := exec.CommandContext(t.Context(), "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=53", "--listen-address="+alive, "--bind-interfaces",
		"--no-resolv", "--no-hosts", "--user=root", "--host-record=login.example,10.0.0.99", "--local=/example/")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-poll.C {
		conn, err := net.Dial("tcp", net.JoinHostPort(alive, "53"))
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("dnsmasq does not listen: %v", err)
		}
	}
	got, err := lookupDNS(t.Context(), []string{dead, alive}, "login.example")
	if err != nil || got != netip.MustParseAddr("10.0.0.99") {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := lookupDNS(t.Context(), []string{alive}, "nobody.example"); err == nil {
		t.Errorf("nobody: %v", got)
	}
	if got, err := lookupDNS(t.Context(), nil, "login.example"); err == nil {
		t.Errorf("without servers: %v", got)
	}
}
