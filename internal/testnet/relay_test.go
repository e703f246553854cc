package testnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// echoServer answers every connection with what it receives, until the test ends.
func echoServer(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	t.Cleanup(func() { listener.Close(); work.Wait() })
	work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	return listener.Addr().String()
}

func newRelay(t *testing.T, config RelayConfig) *Relay {
	t.Helper()
	config.Listen, config.Log = "127.0.0.1:0", t.Logf
	if config.Target == "" {
		config.Target = echoServer(t)
	}
	r, err := NewRelay(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func dial(t *testing.T, r *Relay) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", r.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// tryOnce makes a round trip over a new connection; a cut relay may reset it at any point, also while it is being made.
func tryOnce(r *Relay) error {
	conn, err := net.DialTimeout("tcp", r.Addr().String(), 30*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	return roundTrip(conn, pattern(100))
}

// roundTrip sends data through an echo and compares.
func roundTrip(conn net.Conn, data []byte) error {
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- err
	}()
	back := make([]byte, len(data))
	if _, err := io.ReadFull(conn, back); err != nil {
		conn.Close()
		<-sent
		return err
	}
	if !bytes.Equal(back, data) {
		return errors.New("the bytes came back changed")
	}
	return <-sent
}

func pattern(size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7)
	}
	return data
}

func TestRelayForwards(t *testing.T) {
	r := newRelay(t, RelayConfig{})
	conn := dial(t, r)
	if err := roundTrip(conn, pattern(1<<20)); err != nil {
		t.Fatal(err)
	}
	if up, down := r.Forwarded(); up != 1<<20 || down != 1<<20 {
		t.Errorf("forwarded %d up, %d down", up, down)
	}
	// The end of the client's stream reaches the target, whose end comes back.
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %d, %v", n, err)
	}
}

func TestRelayCutAndRestore(t *testing.T) {
	r := newRelay(t, RelayConfig{})
	conn := dial(t, r)
	if err := roundTrip(conn, pattern(100)); err != nil {
		t.Fatal(err)
	}
	r.Cut()
	if err := roundTrip(conn, pattern(100)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("old connection after Cut: %v", err)
	}
	if err := tryOnce(r); err == nil {
		t.Error("a new connection works after Cut")
	}
	r.Restore()
	if err := roundTrip(dial(t, r), pattern(100)); err != nil {
		t.Errorf("after Restore: %v", err)
	}
}

func TestRelayBlackhole(t *testing.T) {
	r := newRelay(t, RelayConfig{})
	conn := dial(t, r)
	if err := roundTrip(conn, pattern(100)); err != nil {
		t.Fatal(err)
	}
	r.Blackhole()
	done := make(chan error, 1)
	go func() { done <- roundTrip(conn, pattern(200)) }()
	// The bytes wait inside the relay: they are not counted as forwarded, and arrive after Restore.
	if up, _ := r.Forwarded(); up != 100 {
		t.Errorf("forwarded %d bytes", up)
	}
	r.Restore()
	if err := <-done; err != nil {
		t.Errorf("after Restore: %v", err)
	}
	if up, down := r.Forwarded(); up != 300 || down != 300 {
		t.Errorf("forwarded %d up, %d down", up, down)
	}
}

func TestRelayCutAfter(t *testing.T) {
	r := newRelay(t, RelayConfig{})
	r.CutAfter(70_000)
	if err := roundTrip(dial(t, r), pattern(1<<20)); err == nil {
		t.Fatal("the transfer survived")
	}
	if _, down := r.Forwarded(); down > 70_000 {
		t.Errorf("%d bytes came down, want at most 70000", down)
	}
	if err := tryOnce(r); err == nil {
		t.Error("the relay is not cut")
	}
	r.Restore()
	if err := roundTrip(dial(t, r), pattern(1<<20)); err != nil {
		t.Errorf("after Restore: %v", err)
	}
}

func TestRelayTargetGone(t *testing.T) {
	r := newRelay(t, RelayConfig{Target: "127.0.0.1:1"})
	if n, err := dial(t, r).Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes", n)
	}
}

func TestRelayRefusesNames(t *testing.T) {
	if r, err := NewRelay(t.Context(), RelayConfig{Listen: "127.0.0.1:0", Target: "localhost:1"}); err == nil {
		r.Close()
		t.Error("a host name was taken as target")
	}
}

func TestRelayCloseEndsConnections(t *testing.T) {
	r := newRelay(t, RelayConfig{})
	conn := dial(t, r)
	if err := roundTrip(conn, pattern(10)); err != nil {
		t.Fatal(err)
	}
	r.Blackhole()
	r.Close()
	if err := roundTrip(conn, pattern(10)); err == nil {
		t.Error("the connection survived Close")
	}
	r.Close()
}

func TestLimiterKeepsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limiter
		l.setRate(100_000)
		begin := time.Now()
		var both sync.WaitGroup
		for range 2 { // two connections share one line
			both.Go(func() {
				for range 50 {
					if err := l.wait(t.Context(), 2000); err != nil {
						t.Error(err)
					}
				}
			})
		}
		both.Wait()
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("200000 bytes at 100000 per second took %v", took)
		}
		time.Sleep(time.Hour) // an idle line saves nothing up
		begin = time.Now()
		if err := l.wait(t.Context(), 100_000); err != nil || time.Since(begin) != time.Second {
			t.Errorf("after an idle hour: %v, %v", time.Since(begin), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.wait(ctx, 1_000_000); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled wait: %v", err)
		}
		l.setRate(0)
		begin = time.Now()
		if err := l.wait(t.Context(), 1<<30); err != nil || time.Since(begin) != 0 {
			t.Errorf("unlimited: %v, %v", time.Since(begin), err)
		}
	})
}

func TestLimiterPiece(t *testing.T) {
	for rate, want := range map[int64]int{0: 32 << 10, 1000: 512, 100_000: 5000, 1 << 40: 32 << 10} {
		l := limiter{rate: rate}
		if got := l.piece(32 << 10); got != want {
			t.Errorf("rate %d: piece %d, want %d", rate, got, want)
		}
	}
}
