package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// kinds are the two links: a file over TCP, and an export without a file.
func kinds(t *testing.T, data []byte, run func(t *testing.T, e Export)) {
	t.Helper()
	t.Run("file", func(t *testing.T) { t.Parallel(); run(t, newFileExport(t, "lab", data, 0)) })
	t.Run("part of a file", func(t *testing.T) { t.Parallel(); run(t, newFileExport(t, "lab", data, 12345)) })
	t.Run("reader", func(t *testing.T) {
		t.Parallel()
		run(t, &memExport{info: ExportInfo{Name: "lab", Size: int64(len(data))}, data: data})
	})
}

func TestRead(t *testing.T) {
	t.Parallel()
	data := randomBytes(3<<20 + 777)
	kinds(t, data, func(t *testing.T, e Export) {
		c := start(t, Config{}, e).connect()
		c.enter("lab")
		for _, r := range []struct{ off, n int }{
			{0, 0}, {0, 1}, {0, 4096}, {1, 4095}, {4096, 512}, {100, mapLimit - 1}, {100, mapLimit}, {100, mapLimit + 1},
			{5, copyBuffer - replySize}, {5, copyBuffer - replySize + 1}, {5, 3 * copyBuffer}, {0, len(data)}, {len(data) - 1, 1}, {len(data), 0},
		} {
			if got := c.read(uint64(r.off), r.n); !bytes.Equal(got, data[r.off:r.off+r.n]) {
				t.Errorf("%d bytes at %d differ", r.n, r.off)
			}
		}
	})
}

// TestPipeline sends everything at once, good and bad, and expects the replies in order.
func TestPipeline(t *testing.T) {
	t.Parallel()
	data := randomBytes(1 << 20)
	kinds(t, data, func(t *testing.T, e Export) {
		h := start(t, Config{}, e)
		c := h.connect()
		c.enter("lab")
		var b []byte
		const rounds = 40
		payload := bytes.Repeat([]byte{0x25, 0x60, 0x95, 0x13}, 1000) // looks like requests
		for i := range uint64(rounds) {
			b = appendRequest(b, request{command: cmdRead, cookie: i, offset: i * 1000, length: 512})
			b = appendRequest(b, request{command: cmdWrite, cookie: ^i, length: uint32(len(payload))})
			b = append(b, payload...)
			b = appendRequest(b, request{command: cmdRead, cookie: 1000 + i, offset: uint64(len(data)), length: 1})
			b = appendRequest(b, request{command: cmdFlush, cookie: 2000 + i})
			b = appendRequest(b, request{command: cmdTrim, cookie: 3000 + i, length: 4096})
			b = appendRequest(b, request{command: 99, cookie: 4000 + i})
			b = appendRequest(b, request{command: cmdWrite, cookie: 5000 + i})
			b = appendRequest(b, request{command: cmdRead, cookie: 6000 + i, offset: i, length: 100_000})
		}
		b = appendRequest(b, request{command: cmdDisconnect})
		sent := make(chan error, 1)
		go func() { _, err := c.conn.Write(b); sent <- err }()
		for i := range uint64(rounds) {
			if got := c.replied(i, errnoNone, 512); !bytes.Equal(got, data[i*1000:i*1000+512]) {
				t.Errorf("round %d: first read differs", i)
			}
			c.replied(^i, errnoPerm, 0)
			c.replied(1000+i, errnoInval, 0)
			c.replied(2000+i, errnoNone, 0)
			c.replied(3000+i, errnoPerm, 0)
			c.replied(4000+i, errnoInval, 0)
			c.replied(5000+i, errnoPerm, 0)
			if got := c.replied(6000+i, errnoNone, 100_000); !bytes.Equal(got, data[i:i+100_000]) {
				t.Errorf("round %d: last read differs", i)
			}
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		c.closed()
		h.finish()
		if got, want := h.retired, (totals{reads: 2 * rounds, others: 6*rounds + 1, errors: 5 * rounds, bytes: rounds * 100_512}); got != want {
			t.Errorf("totals %+v, want %+v", got, want)
		}
	})
}

// TestRequestInPieces: requests need not arrive whole.
func TestRequestInPieces(t *testing.T) {
	t.Parallel()
	data := randomBytes(1 << 16)
	kinds(t, data, func(t *testing.T, e Export) {
		c := start(t, Config{}, e).connect()
		c.enter("lab")
		for i := range uint64(requestSize) {
			b := appendRequest(nil, request{command: cmdRead, cookie: i, offset: 7, length: 9})
			// The first request is whole, so that its reply shows that the piece has been read.
			b = appendRequest(b, request{command: cmdRead, cookie: 100 + i, offset: 8, length: 9})
			cut := requestSize + int(i)
			c.send(b[:cut])
			c.replied(i, errnoNone, 9)
			c.send(b[cut:])
			if got := c.replied(100+i, errnoNone, 9); !bytes.Equal(got, data[8:17]) {
				t.Errorf("cut at %d: read differs", i)
			}
		}
	})
}

func TestTransmissionHangUp(t *testing.T) {
	t.Parallel()
	for name, b := range map[string][]byte{
		"bad magic":      append([]byte{1}, appendRequest(nil, request{})[1:]...),
		"write too long": appendRequest(nil, request{command: cmdWrite, length: math.MaxUint32}),
		"good-bye":       appendRequest(nil, request{command: cmdDisconnect}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kinds(t, randomBytes(4096), func(t *testing.T, e Export) {
				c := start(t, Config{}, e).connect()
				c.enter("lab")
				c.send(b)
				c.closed()
			})
		})
	}
}

// TestSlowClient: the client takes replies only after it has asked for far more than the socket holds.
func TestSlowClient(t *testing.T) {
	t.Parallel()
	data := randomBytes(8 << 20)
	kinds(t, data, func(t *testing.T, e Export) {
		c := start(t, Config{}, e).connect()
		c.enter("lab")
		var b []byte
		const n = 12
		for i := range uint64(n) {
			b = appendRequest(b, request{command: cmdRead, cookie: i, length: uint32(len(data)) - 1, offset: 1})
			b = appendRequest(b, request{command: cmdRead, cookie: i, length: 512, offset: 1})
		}
		c.send(b)
		for i := range uint64(n) {
			if got := c.replied(i, errnoNone, len(data)-1); !bytes.Equal(got, data[1:]) {
				t.Errorf("long read %d differs", i)
			}
			if got := c.replied(i, errnoNone, 512); !bytes.Equal(got, data[1:513]) {
				t.Errorf("short read %d differs", i)
			}
		}
	})
}

// TestReadFailure: nothing of ours that fails may reach a PC as an I/O error; see the package comment.
func TestReadFailure(t *testing.T) {
	t.Parallel()
	bad := errors.New("bad sector")
	shrunk := newFileExport(t, "shrunk", randomBytes(1<<20), 0)
	for name, tt := range map[string]struct {
		export Export
		length uint32
		breakI func()
	}{
		"reader":           {&memExport{info: ExportInfo{Name: "reader", Size: 4096}, err: bad}, 512, func() {}},
		"reader too short": {&memExport{info: ExportInfo{Name: "reader", Size: 4096}, data: []byte("x")}, 512, func() {}},
		"mapping":          {shrunk, 4096, func() { truncate(t, shrunk) }},
		"sendfile":         {shrunk, mapLimit + 1, func() { truncate(t, shrunk) }},
	} {
		t.Run(name, func(t *testing.T) {
			failed := make(chan string, 1)
			h := start(t, Config{OnReadFailure: func(export string, err error) {
				if err == nil {
					t.Error("no error given")
				}
				failed <- export
			}}, tt.export)
			c := h.connect()
			c.enter(tt.export.Info().Name)
			tt.breakI()
			c.send(appendRequest(nil, request{command: cmdRead, cookie: 1, offset: 1024, length: tt.length}))
			// A header of success may come before the end, but never an error and never all of the payload.
			got := make([]byte, replySize+int(tt.length))
			n, err := ioReadAll(c.conn, got)
			if errors.Is(err, os.ErrDeadlineExceeded) || n == len(got) {
				t.Fatalf("client received %d bytes, %v", n, err)
			}
			var ok [replySize]byte
			putSimpleReply(&ok, errnoNone, 1)
			if n >= replySize && !bytes.Equal(got[:replySize], ok[:]) {
				t.Errorf("reply %x", got[:replySize])
			}
			if name := <-failed; name != tt.export.Info().Name {
				t.Errorf("failure of %q reported", name)
			}
			if n := h.metrics.readFailures.Load(); n != 1 {
				t.Errorf("%d read failures counted", n)
			}
		})
	}
}

func ioReadAll(c net.Conn, p []byte) (int, error) {
	n := 0
	for n < len(p) {
		m, err := c.Read(p[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func truncate(t *testing.T, e *fileExport) {
	t.Helper()
	if err := os.Truncate(e.f.Name(), 0); err != nil {
		t.Fatal(err)
	}
}

// TestFileTooShort: an export that claims more than its file has is refused before it is served.
func TestFileTooShort(t *testing.T) {
	t.Parallel()
	e := newFileExport(t, "lab", randomBytes(100), 0)
	e.info.Size = 1 << 20
	c := start(t, Config{}, e).connect()
	c.hello(flagFixedNewstyle)
	c.send(appendOption(nil, optGo, appendInfoRequest(nil, "lab")))
	if _, err := ioReadAll(c.conn, make([]byte, 1<<10)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the server does not end the connection")
	}
}

func TestSharedSource(t *testing.T) {
	t.Parallel()
	data := randomBytes(1 << 16)
	h := start(t, Config{}, newFileExport(t, "lab", data, 4096))
	a, b := h.connect(), h.connect()
	a.enter("lab")
	b.enter("lab")
	a.read(0, 1)
	b.read(0, 1)
	h.sources.mu.Lock()
	n, refs := len(h.sources.open), 0
	for _, s := range h.sources.open {
		refs += s.refs
	}
	h.sources.mu.Unlock()
	if n != 1 || refs != 2 {
		t.Errorf("%d mappings with %d users, want one with two", n, refs)
	}
	if n := h.shelf.handles(); n != 2 {
		t.Errorf("%d handles open, want one per connection", n)
	}
	a.send(appendRequest(nil, request{command: cmdDisconnect}))
	a.closed()
	if got := b.read(100, 5000); !bytes.Equal(got, data[100:5100]) {
		t.Error("read after the other connection ended differs")
	}
}

// notes is a Recorder that has enough after two reads.
type notes struct {
	export string
	reads  [][2]uint64
	closed chan *notes
}

func (n *notes) Read(off uint64, length uint32) bool {
	n.reads = append(n.reads, [2]uint64{off, uint64(length)})
	return len(n.reads) < 2
}

func (n *notes) Close() { n.closed <- n }

func TestRecord(t *testing.T) {
	t.Parallel()
	closed := make(chan *notes, 8)
	e := newFileExport(t, "lab", randomBytes(1<<16), 0)
	var mu sync.Mutex
	asked := 0
	c := start(t, Config{Record: func(name string, client netip.AddrPort) Recorder {
		mu.Lock()
		defer mu.Unlock()
		if asked++; asked > 2 || !client.Addr().IsLoopback() {
			return nil
		}
		return &notes{export: name, closed: closed}
	}}, e)
	one := c.connect()
	one.enter("lab")
	one.read(5, 6)
	one.read(7, 8)
	if got := <-closed; fmt.Sprint(got.export, got.reads) != "lab[[5 6] [7 8]]" {
		t.Errorf("recorded %s %v", got.export, got.reads)
	}
	one.read(9, 10)
	two := c.connect()
	two.enter("lab")
	two.read(1, 2)
	two.send(appendRequest(nil, request{command: cmdDisconnect}))
	two.closed()
	if got := <-closed; len(got.reads) != 1 {
		t.Errorf("recorded %v", got.reads)
	}
	three := c.connect()
	three.enter("lab")
	three.read(1, 2)
	if len(closed) != 0 {
		t.Error("a recording was closed twice")
	}
}

func TestReadsWaitForWhatArrives(t *testing.T) {
	t.Parallel()
	data := randomBytes(1 << 20)
	for name, lead := range map[string]int{"file": 0, "file with an offset": 777} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := &arrivingExport{fileExport: newFileExport(t, "lab", data, lead), arrived: 4096, come: make(chan error), waiting: make(chan int64, 10)}
			h := start(t, Config{}, e)
			slow, quick := h.connect(), h.connect()
			slow.enter("lab")
			quick.enter("lab")
			req := request{command: cmdRead, cookie: 7, offset: 100_000, length: 200_000}
			slow.send(appendRequest(nil, req))
			<-e.waiting
			if got := quick.read(0, 4096); !bytes.Equal(got, data[:4096]) {
				t.Error("what is there differs")
			}
			e.come <- nil
			if got := slow.replied(7, errnoNone, 200_000); !bytes.Equal(got, data[100_000:300_000]) {
				t.Error("what has arrived differs")
			}
			slow.send(appendRequest(nil, req))
			<-e.waiting
			e.come <- errors.New("late")
			slow.closed()
			if n := h.metrics.lateReads.Load(); n != 1 {
				t.Errorf("%d late reads counted, want 1", n)
			}
			if n := h.metrics.readFailures.Load(); n != 0 {
				t.Errorf("%d read failures counted: the export would be withdrawn", n)
			}
		})
	}
}

// The end of the server is not held up by a read that waits.
func TestDrainEndsWaits(t *testing.T) {
	t.Parallel()
	e := &arrivingExport{fileExport: newFileExport(t, "lab", randomBytes(1<<16), 0), come: make(chan error), waiting: make(chan int64, 10)}
	h := start(t, Config{DrainTimeout: time.Hour}, e)
	c := h.connect()
	c.enter("lab")
	c.send(appendRequest(nil, request{command: cmdRead, cookie: 7, length: 10}))
	<-e.waiting
	h.finish()
	c.closed()
}

// TestNoAllocations holds the hot path to its promise. Allocations of the whole process are counted, the client's too.
func TestNoAllocations(t *testing.T) {
	data := randomBytes(1 << 20)
	h := start(t, Config{Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)}, newFileExport(t, "lab", data, 0))
	c := h.connect()
	c.enter("lab")
	for _, n := range []int{512, 128 << 10} {
		req := appendRequest(nil, request{command: cmdRead, cookie: 1, offset: 512, length: uint32(n)})
		got := make([]byte, replySize+n)
		allocs := testing.AllocsPerRun(500, func() {
			c.send(req)
			if m, err := ioReadAll(c.conn, got); m != len(got) {
				t.Fatalf("%d bytes, %v", m, err)
			}
		})
		if allocs > 0 {
			t.Errorf("%v allocations per read of %d bytes", allocs, n)
		}
	}
}

// TestPipe runs the whole conversation over a connection that is no socket.
func TestPipe(t *testing.T) {
	t.Parallel()
	e := newFileExport(t, "lab", randomBytes(1<<16), 0)
	srv, err := New(Config{Exports: &shelf{exports: map[string]Export{"lab": &e.memExport}}})
	if err != nil {
		t.Fatal(err)
	}
	e.memExport.data = randomBytes(1 << 16)
	ln := newPipeListener()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx, ln) }()
	c := &client{t, ln.dial()}
	c.enter("lab")
	if got := c.read(10, 5000); !bytes.Equal(got, e.memExport.data[10:5010]) {
		t.Error("read differs")
	}
	cancel()
	c.closed()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
