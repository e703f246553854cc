//go:build component

package nbd

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// access is one read of a trace.
type access struct {
	off int64
	n   int
}

// stormTrace imitates a desktop boot: mean 64 KiB, a third of the reads up to 16 KiB.
func stormTrace(size int64) []access {
	return makeTrace(size, 3826, []int{4, 8, 16, 32, 64, 128, 128}, []int{11, 10, 10, 12, 17, 20, 20}, 1<<10)
}

// minimalTrace imitates a recorded boot of a minimal system: mean 24 KB, a third of the reads up to 1 KiB.
func minimalTrace(size int64) []access {
	return makeTrace(size, 531, []int{1, 2, 4, 8, 24, 128}, []int{74, 24, 20, 20, 30, 32}, 512)
}

func makeTrace(size int64, count int, sizes, weights []int, unit int) []access {
	r := rand.New(rand.NewPCG(1, 2))
	total := 0
	for _, w := range weights {
		total += w
	}
	var list []access
	for range count {
		pick, i := r.IntN(total), 0
		for ; pick >= weights[i]; i++ {
			pick -= weights[i]
		}
		n := sizes[i] * unit
		list = append(list, access{off: r.Int64N((size-int64(n))/512) * 512, n: n})
	}
	return list
}

// loadResult is what one run of the load generator saw.
type loadResult struct {
	reads, bytes  int64
	least, most   int64 // bytes of one client
	elapsed       time.Duration
	p50, p99, max time.Duration
	cpu           time.Duration // of the server, filled in by the caller
}

// loadClient is one connection that replays a trace at queue depth one.
type loadClient struct {
	fd      int
	trace   []access
	next    int
	bytes   int64
	left    int // payload of the reply under way still to come; -1: waiting for the header
	started time.Time
}

// runLoad replays trace on every connection in a loop for the duration. Payload is dropped in the kernel, so that the client costs little.
func runLoad(conns []net.Conn, trace []access, d time.Duration) (loadResult, error) {
	workers := 2
	var wg sync.WaitGroup
	results := make([]loadResult, workers)
	errs := make([]error, workers)
	lats := make([][]time.Duration, workers)
	start := time.Now()
	for w := range workers {
		var mine []*loadClient
		for i := w; i < len(conns); i += workers {
			raw, err := conns[i].(*net.TCPConn).SyscallConn()
			if err != nil {
				return loadResult{}, err
			}
			c := &loadClient{trace: trace}
			if err := raw.Control(func(fd uintptr) { c.fd = int(fd) }); err != nil {
				return loadResult{}, err
			}
			mine = append(mine, c)
		}
		wg.Go(func() { results[w], lats[w], errs[w] = loadWorker(mine, start.Add(d)) })
	}
	wg.Wait()
	sum := loadResult{least: 1 << 62, elapsed: time.Since(start)}
	var all []time.Duration
	for w, r := range results {
		if errs[w] != nil {
			return loadResult{}, errs[w]
		}
		sum.reads += r.reads
		sum.bytes += r.bytes
		if len(lats[w]) > 0 {
			sum.least, sum.most = min(sum.least, r.least), max(sum.most, r.most)
		}
		all = append(all, lats[w]...)
	}
	slices.Sort(all)
	sum.p50, sum.p99, sum.max = all[len(all)/2], all[len(all)*99/100], all[len(all)-1]
	return sum, nil
}

func loadWorker(clients []*loadClient, end time.Time) (loadResult, []time.Duration, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return loadResult{}, nil, err
	}
	defer unix.Close(ep)
	for i, c := range clients {
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
			return loadResult{}, nil, err
		}
		if err := c.ask(); err != nil {
			return loadResult{}, nil, err
		}
	}
	lats := make([]time.Duration, 0, 1<<20)
	events := make([]unix.EpollEvent, 64)
	busy := len(clients)
	for busy > 0 {
		n, err := unix.EpollWait(ep, events, 5000)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return loadResult{}, nil, fmt.Errorf("waiting for replies: %d events, %v", n, err)
		}
		now := time.Now()
		for _, ev := range events[:n] {
			c := clients[ev.Fd]
			done, err := c.receive()
			if err != nil {
				return loadResult{}, nil, err
			}
			if !done {
				continue
			}
			lats = append(lats, now.Sub(c.started))
			if now.After(end) {
				busy--
				continue
			}
			if err := c.ask(); err != nil {
				return loadResult{}, nil, err
			}
		}
	}
	r := loadResult{least: 1 << 62, reads: int64(len(lats))}
	for _, c := range clients {
		r.bytes += c.bytes
		r.least, r.most = min(r.least, c.bytes), max(r.most, c.bytes)
	}
	return r, lats, nil
}

func (c *loadClient) ask() error {
	a := c.trace[c.next]
	c.started, c.left = time.Now(), -1
	_, err := unix.Write(c.fd, appendRequest(nil, request{command: cmdRead, cookie: uint64(c.next), offset: uint64(a.off), length: uint32(a.n)}))
	return err
}

// receive takes what is there; done says that the reply is complete.
func (c *loadClient) receive() (done bool, err error) {
	a := c.trace[c.next]
	if c.left < 0 {
		var head [replySize]byte
		n, err := unix.Read(c.fd, head[:])
		if err != nil || n != replySize {
			return false, fmt.Errorf("reply header: %d bytes, %v", n, err)
		}
		if binary.BigEndian.Uint32(head[:]) != magicSimpleReply || binary.BigEndian.Uint32(head[4:]) != 0 || binary.BigEndian.Uint64(head[8:]) != uint64(c.next) {
			return false, fmt.Errorf("reply header %x", head)
		}
		c.left = a.n
	}
	n, _, e := unix.Syscall6(unix.SYS_RECVFROM, uintptr(c.fd), 0, uintptr(c.left), unix.MSG_TRUNC, 0, 0)
	if e == unix.EAGAIN {
		return false, nil
	}
	if e != 0 || n == 0 {
		return false, fmt.Errorf("reply payload: %d bytes, %v", n, e)
	}
	c.left -= int(n)
	if c.left > 0 {
		return false, nil
	}
	c.bytes += int64(a.n)
	c.next = (c.next + 1) % len(c.trace)
	return true, nil
}

// dialMany connects n times and negotiates by NBD_OPT_EXPORT_NAME, at most atOnce at a time.
func dialMany(t testing.TB, addr, export string, n, atOnce int) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, n)
	errs := make([]error, n)
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			conns[i], errs[i] = dialExport(addr, export)
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	})
	for i, err := range errs {
		if err != nil {
			t.Fatalf("connection %d of %d: %v", i, n, err)
		}
	}
	return conns
}

func dialExport(addr, export string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", addr, 20*time.Second)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	var hello [greetingSize]byte
	if _, err := io.ReadFull(c, hello[:]); err != nil {
		return nil, fmt.Errorf("greeting: %w", err)
	}
	b := binary.BigEndian.AppendUint32(nil, flagFixedNewstyle|flagNoZeroes)
	if _, err := c.Write(appendOption(b, optExportName, []byte(export))); err != nil {
		return nil, err
	}
	var info [10]byte
	if _, err := io.ReadFull(c, info[:]); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	return c, c.SetDeadline(time.Time{})
}
