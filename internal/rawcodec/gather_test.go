package rawcodec_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/rawcodec"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// countedConn counts the writes to a connection; failAfter of them succeed, if it is not negative.
type countedConn struct {
	net.Conn
	writes    atomic.Int64
	failAfter int64
}

var errCable = errors.New("cable is out")

func (c *countedConn) Write(p []byte) (int, error) {
	if n := c.writes.Add(1); c.failAfter >= 0 && n > c.failAfter {
		return 0, errCable
	}
	return c.Conn.Write(p)
}

// handshake gives both ends of a TLS connection, of which the server's is counted.
func handshake(t *testing.T) (server net.Conn, counted *countedConn, client net.Conn) {
	t.Helper()
	id := newIdentity(t)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	counted = &countedConn{Conn: accepted, failAfter: -1}
	done := make(chan error, 1)
	go func() {
		var err error
		server, _, err = rawcodec.ServerCredentials(id.config()).Clone().ServerHandshake(counted)
		done <- err
	}()
	client, _, err = credentials.NewTLS(id.config()).ClientHandshake(t.Context(), "localhost", raw)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Close()
		client.Close()
	})
	return server, counted, client
}

func TestServerCredentialsGatherRecords(t *testing.T) {
	server, counted, client := handshake(t)
	data := randomBytes(1 << 20)
	before := counted.writes.Load()
	written := make(chan error, 1)
	go func() {
		_, err1 := server.Write(data[:10])
		_, err2 := server.Write(data[10:])
		written <- errors.Join(err1, err2)
	}()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("other bytes, error %v", err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if n := counted.writes.Load() - before; n > 16 {
		t.Errorf("%d writes for 1 MiB, want at most 16; a record each would be 65", n)
	}
	if _, is := server.(syscall.Conn); !is {
		t.Error("the connection has no SyscallConn")
	}
}

func TestServerCredentialsReportFailedWrites(t *testing.T) {
	server, counted, client := handshake(t)
	client.Close()
	counted.failAfter = counted.writes.Load()
	if n, err := server.Write([]byte("short")); !errors.Is(err, errCable) {
		t.Errorf("short write = %d, %v, want the error of the connection", n, err)
	}
	if n, err := server.Write(make([]byte, 1<<20)); err == nil {
		t.Errorf("long write = %d without error", n)
	}
}

func TestHandlersSeeTheClientCertificate(t *testing.T) {
	cc := serve(t, func(s *grpc.Server) {
		rawcodec.RegisterFetch(s, fetchMethod, func(ctx context.Context, _ []byte, send func([]byte) error) error {
			p, _ := peer.FromContext(ctx)
			return send([]byte(p.AuthInfo.(credentials.TLSInfo).State.VerifiedChains[0][0].Subject.CommonName))
		})
	})
	if got, err := fetch(t.Context(), cc, ""); err != nil || string(got) != "test" {
		t.Errorf("common name %q, error %v", got, err)
	}
}
