package hostkeys_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/hostkeys"
)

func signer(t *testing.T, key any) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve runs an SSH server with the host keys on loopback until the test ends.
func serve(t *testing.T, keys ...ssh.Signer) string {
	t.Helper()
	config := &ssh.ServerConfig{NoClientAuth: true}
	for _, k := range keys {
		config.AddHostKey(k)
	}
	return listen(t, func(conn net.Conn) {
		_, _, _, err := ssh.NewServerConn(conn, config)
		if err == nil {
			t.Error("somebody has logged in")
		}
	})
}

func listen(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn)
			_ = conn.Close() // the other side has its answer
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func TestScan(t *testing.T) {
	t.Parallel()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	one, two := signer(t, ed), signer(t, ec)
	got, err := hostkeys.Scan(t.Context(), serve(t, two, one))
	if err != nil || len(got) != 2 {
		t.Fatalf("keys %v, error %v", got, err)
	}
	if got[0].Type != "ssh-ed25519" || got[0].Fingerprint != ssh.FingerprintSHA256(one.PublicKey()) || got[1].Fingerprint != ssh.FingerprintSHA256(two.PublicKey()) {
		t.Errorf("keys %v", got)
	}
	if line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(one.PublicKey()))); got[0].Line != line {
		t.Errorf("line %q, want %q", got[0].Line, line)
	}
	again, err := hostkeys.Parse(got[0].Line + " root@srv")
	if err != nil || again != got[0] {
		t.Errorf("parsed %v, %v", again, err)
	}
}

func TestScanOfNoServer(t *testing.T) {
	t.Parallel()
	silent := listen(t, func(conn net.Conn) { _, _ = conn.Write([]byte("HTTP/1.1 400 no\r\n\r\n")) })
	if keys, err := hostkeys.Scan(t.Context(), silent); err == nil || len(keys) > 0 {
		t.Errorf("keys %v, error %v", keys, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // now nobody listens there
	if keys, err := hostkeys.Scan(t.Context(), l.Addr().String()); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("keys %v, error %v", keys, err)
	}
}

// A server that never says a word does not hold up who has given up.
func TestScanEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	addr := listen(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1<<10)); <-ctx.Done() })
	if keys, err := hostkeys.Scan(ctx, addr); err == nil {
		t.Errorf("keys %v", keys)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"", "ssh-ed25519", "ssh-ed25519 AAAA", "restrict ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFvM4Dj5LKlrXJfDwVkTXJWlv9pDvnS9ZbfjBTq9YxzR", "x y z"} {
		if k, err := hostkeys.Parse(line); err == nil {
			t.Errorf("%q reads as %v", line, k)
		}
	}
}
