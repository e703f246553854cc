package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// pipeListener gives out the far ends of pipes.
type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
	fail  chan error
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{}), fail: make(chan error, 1)}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case err := <-l.fail:
		return nil, err
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (l *pipeListener) dial() net.Conn {
	a, b := net.Pipe()
	l.conns <- a
	return b
}

// bubble runs a server over pipes inside a synctest bubble.
func bubble(t *testing.T, cfg Config, run func(t *testing.T, srv *Server, ln *pipeListener, stop func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ln := newPipeListener()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(ctx, ln) }()
		run(t, srv, ln, cancel)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func oneExport(size int) *shelf {
	return &shelf{exports: map[string]Export{"lab": &memExport{info: ExportInfo{Name: "lab", Size: int64(size)}, data: randomBytes(size)}}}
}

func TestHandshakeTimeout(t *testing.T) {
	t.Parallel()
	bubble(t, Config{Exports: oneExport(10), HandshakeTimeout: 3 * time.Second}, func(t *testing.T, srv *Server, ln *pipeListener, _ func()) {
		began := time.Now()
		c := &client{t, ln.dial()}
		c.hello(flagFixedNewstyle)
		time.Sleep(2 * time.Second)
		c.haggle(99, nil) // does not prolong it
		c.closed()
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("ended after %v", d)
		}
		synctest.Wait()
		if n := srv.metrics.failed[failedTimeout].Load(); n != 1 {
			t.Errorf("%d timeouts counted", n)
		}
	})
}

// TestIdle: an idle client is not ended by the deadline of its handshake, or any other.
func TestIdle(t *testing.T) {
	t.Parallel()
	bubble(t, Config{Exports: oneExport(10)}, func(t *testing.T, _ *Server, ln *pipeListener, _ func()) {
		c := &client{t, ln.dial()}
		c.enter("lab")
		time.Sleep(48 * time.Hour)
		c.read(0, 10)
		time.Sleep(48 * time.Hour)
		c.read(0, 10)
	})
}

func TestWriteTimeout(t *testing.T) {
	t.Parallel()
	bubble(t, Config{Exports: oneExport(1 << 20)}, func(t *testing.T, srv *Server, ln *pipeListener, _ func()) {
		c := &client{t, ln.dial()}
		c.enter("lab")
		c.send(appendRequest(nil, request{command: cmdRead, length: 1 << 20}))
		time.Sleep(DefaultWriteTimeout + time.Second)
		if n := len(srv.Connections()); n != 0 {
			t.Errorf("%d connections after the timeout", n)
		}
	})
}

// TestWriteTimeoutTCP is the same over a socket, where the kernel's buffers fill first.
func TestWriteTimeoutTCP(t *testing.T) {
	t.Parallel()
	h := start(t, Config{WriteTimeout: 50 * time.Millisecond}, newFileExport(t, "lab", randomBytes(maxPayload), 0))
	for _, n := range []uint32{mapLimit, maxPayload} {
		c := h.connect()
		c.enter("lab")
		var b []byte
		for range 2 * maxPayload / n {
			b = appendRequest(b, request{command: cmdRead, length: n})
		}
		go c.conn.Write(b)
		eventually(t, func() bool { return len(h.Connections()) == 0 })
	}
}

// eventually waits for a condition that no channel announces.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("the expected state does not come")
		}
	}
}

func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	h := start(t, Config{MaxConnections: 3}, newFileExport(t, "lab", randomBytes(4096), 0))
	var open []*client
	for range 3 {
		c := h.connect()
		c.enter("lab")
		open = append(open, c)
	}
	for range 5 {
		h.connect().closed()
	}
	if n := h.metrics.refused[refusedLimit].Load(); n != 5 {
		t.Errorf("%d refusals counted, want 5", n)
	}
	open[1].send(appendRequest(nil, request{command: cmdDisconnect}))
	open[1].closed()
	eventually(t, func() bool { return len(h.Connections()) == 2 })
	h.connect().enter("lab")
}

func TestAddressLimit(t *testing.T) {
	t.Parallel()
	h := start(t, Config{MaxPerAddr: 2}, newFileExport(t, "lab", randomBytes(4096), 0))
	from := func(ip string) *client {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		conn, err := d.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		return &client{t, conn}
	}
	from("127.0.0.1").enter("lab")
	from("127.0.0.1").enter("lab")
	from("127.0.0.1").closed()
	from("127.0.0.2").enter("lab")
	if n := h.metrics.refused[refusedAddrLimit].Load(); n != 1 {
		t.Errorf("%d refusals counted, want 1", n)
	}
}

func TestConnections(t *testing.T) {
	t.Parallel()
	before := time.Now()
	h := start(t, Config{}, newFileExport(t, "lab", randomBytes(4096), 0))
	a, b := h.connect(), h.connect()
	a.enter("lab")
	a.read(0, 100)
	a.read(0, 50)
	b.hello(flagFixedNewstyle)
	b.haggle(99, nil)
	// The counters move after the reply has left.
	eventually(t, func() bool { _, sum := h.totals(); return sum.reads == 2 })
	want := []ConnInfo{
		{Addr: addrOf(a), Export: "lab", Reads: 2, SentBytes: 150},
		{Addr: addrOf(b)},
	}
	got := h.Connections()
	for i := range got {
		if got[i].Since.Before(before) || got[i].Since.After(time.Now()) {
			t.Errorf("connection since %v", got[i].Since)
		}
		got[i].Since = time.Time{}
	}
	slices.SortFunc(got, func(a, b ConnInfo) int { return int(b.Reads) - int(a.Reads) })
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func addrOf(c *client) netip.AddrPort { return c.conn.LocalAddr().(*net.TCPAddr).AddrPort() }

// TestDrain: when the context ends, idle clients go at once and the reply under way is completed.
func TestDrain(t *testing.T) {
	t.Parallel()
	data := randomBytes(maxPayload)
	h := start(t, Config{DrainTimeout: patience}, newFileExport(t, "lab", data, 0))
	idle, busy, half := h.connect(), h.connect(), h.connect()
	idle.enter("lab")
	half.hello(flagFixedNewstyle)
	busy.enter("lab")
	busy.send(appendRequest(nil, request{command: cmdRead, cookie: 1, length: maxPayload}))
	busy.send(appendRequest(nil, request{command: cmdRead, cookie: 2, length: maxPayload}))
	head := busy.receive(replySize) // the first reply is under way and more than a socket holds
	h.stop()
	idle.closed()
	half.closed()
	if got := busy.receive(maxPayload); !bytes.Equal(got, data) || len(head) != replySize {
		t.Error("the reply under way is not complete")
	}
	busy.closed()
	h.finish()
}

// TestDrainTimeout: a client that takes nothing does not hold up the end.
func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	bubble(t, Config{Exports: oneExport(1 << 20), WriteTimeout: time.Hour}, func(t *testing.T, _ *Server, ln *pipeListener, stop func()) {
		c := &client{t, ln.dial()}
		c.enter("lab")
		c.send(appendRequest(nil, request{command: cmdRead, length: 1 << 20}))
		synctest.Wait()
		began := time.Now()
		stop()
		<-ln.done
		time.Sleep(DefaultDrainTimeout)
		synctest.Wait()
		if _, err := c.conn.Write([]byte{1}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("connection after %v: %v", time.Since(began), err)
		}
	})
}

// TestShutdownReply: who still haggles when the server drains is told so.
func TestShutdownReply(t *testing.T) {
	t.Parallel()
	bubble(t, Config{Exports: oneExport(10)}, func(t *testing.T, srv *Server, ln *pipeListener, _ func()) {
		c := &client{t, ln.dial()}
		c.hello(flagFixedNewstyle)
		synctest.Wait()
		srv.mu.Lock()
		for ss := range srv.sessions {
			ss.scope.draining.Store(true)
		}
		srv.mu.Unlock()
		want := []repliedOption{{replyErrShutdown, "the server is shutting down"}}
		if diff := cmp.Diff(want, c.haggle(optGo, appendInfoRequest(nil, "lab"))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]repliedOption{{replyAck, ""}}, c.haggle(optAbort, nil)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestAcceptErrors(t *testing.T) {
	t.Parallel()
	bubble(t, Config{Exports: oneExport(10)}, func(t *testing.T, _ *Server, ln *pipeListener, _ func()) {
		ln.fail <- &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", unix.EMFILE)}
		c := &client{t, ln.dial()} // accepted after a pause
		c.enter("lab")
	})
	synctest.Test(t, func(t *testing.T) {
		srv, err := New(Config{Exports: oneExport(10)})
		if err != nil {
			t.Fatal(err)
		}
		ln := newPipeListener()
		broken := errors.New("broken")
		ln.fail <- broken
		if err := srv.Serve(t.Context(), ln); !errors.Is(err, broken) {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	if _, err := New(Config{Exports: oneExport(1), Metrics: reg}); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]Config{
		"no exports":       {},
		"negative limit":   {Exports: oneExport(1), MaxConnections: -1},
		"negative timeout": {Exports: oneExport(1), WriteTimeout: -1},
		"metrics twice":    {Exports: oneExport(1), Metrics: reg},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestMetricsAreDocumented compares the package comment with what the registry has.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	if _, err := New(Config{Exports: oneExport(1), Metrics: reg}); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		got = append(got, f.GetName())
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`(?m)^//\t(ltsp_\w+)`).FindAllSubmatch(doc, -1) {
		want = append(want, string(m[1]))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("documented and registered metrics (-doc +registry):\n%s", diff)
	}
}
