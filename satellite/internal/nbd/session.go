package nbd

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"
)

const (
	// inboxRequests is how many pipelined requests are taken from the socket at once; more wait in the socket.
	inboxRequests = 16
	// burstBytes is how much a connection may be sent before others that wait for a processor get their turn.
	burstBytes = 256 << 10
)

// errAgain is returned by link.read when there is nothing to read now.
var errAgain = errors.New("nothing to read now")

// readFailure is an error of the export, not of the connection.
type readFailure struct{ err error }

func (e *readFailure) Error() string { return "read export: " + e.err.Error() }
func (e *readFailure) Unwrap() error { return e.err }

// lateRead is the error of a Waiter.
type lateRead struct{ err error }

func (e *lateRead) Error() string { return e.err.Error() }
func (e *lateRead) Unwrap() error { return e.err }

// link moves the messages of the transmission phase. There are two: over any net.Conn and io.ReaderAt, and over a TCP socket
// and a file.
type link interface {
	// run calls pump until it returns true, each time there is something to read.
	run(pump func() bool) error
	// read returns at least one byte, errAgain (run will call again), io.EOF or another error.
	read(p []byte) (int, error)
	// drop reads and forgets at least one and at most n bytes; errors as read's.
	drop(n int) (int, error)
	// reply sends a reply and, behind it, n bytes of the export from off. more says that another reply follows at once.
	reply(head *[replySize]byte, off int64, n int, more bool) error
}

// session is one connection. Its goroutine is the only user of all fields but those said otherwise.
type session struct {
	srv    *Server
	scope  *scope
	conn   net.Conn
	remote netip.AddrPort // constant
	since  time.Time      // constant
	export string         // guarded by srv.mu
	tally  tally          // written by the goroutine, read by all

	in   inbox
	head [replySize]byte
	link link
	size uint64
	ctx  context.Context // ends when the server drains
	wait Waiter          // nil if all bytes are there
	rec  Recorder        // nil if nobody wants to know

	skip       int // payload bytes of a refused write still to come
	skipCookie uint64
	burst      int
	err        error // why pump ended
}

// tally counts what a session did.
type tally struct {
	reads, others, errors, bytes atomic.Uint64
}

// inbox buffers what the client sent: requests of 28 bytes, options before them.
type inbox struct {
	buf  [inboxRequests * requestSize]byte
	r, w int
}

func (b *inbox) len() int { return b.w - b.r }

// bytes returns what is buffered, consume takes n bytes of it.
func (b *inbox) bytes() []byte { return b.buf[b.r:b.w] }

func (b *inbox) consume(n int) {
	b.r += n
	if b.r == b.w {
		b.r, b.w = 0, 0
	}
}

// free returns where to read to; it moves what is left of a message to the front.
func (b *inbox) free() []byte {
	if b.r > 0 {
		b.w = copy(b.buf[:], b.buf[b.r:b.w])
		b.r = 0
	}
	return b.buf[b.w:]
}

// readFull fills p from the buffer and from c.
func (b *inbox) readFull(c io.Reader, p []byte) error {
	for {
		n := copy(p, b.bytes())
		b.consume(n)
		if p = p[n:]; len(p) == 0 {
			return nil
		}
		n, err := c.Read(b.free())
		b.w += n
		if n == 0 && err != nil {
			return err
		}
	}
}

// transmit answers requests until the client leaves, breaks the protocol, the export fails or the server drains.
func (ss *session) transmit(ctx context.Context, export Export, info ExportInfo) error {
	link, release, err := ss.open(export, info)
	if err != nil {
		return err
	}
	defer release()
	ss.link, ss.size, ss.ctx = link, uint64(info.Size), ctx
	ss.wait, _ = export.(Waiter)
	if ss.srv.cfg.Record != nil {
		ss.rec = ss.srv.cfg.Record(info.Name, ss.remote)
	}
	defer ss.closeRecorder()
	// The deadline of the handshake ends here. A drain that began in this moment must not be undone.
	_ = ss.conn.SetDeadline(time.Time{})
	if ss.scope.draining.Load() {
		return nil
	}
	if err := link.run(ss.pump); err != nil && ss.err == nil {
		if ss.scope.draining.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		return err
	}
	if errors.Is(ss.err, io.EOF) {
		return nil
	}
	return ss.err
}

// pump answers what can be read now. It returns false if more may come and true at the end, with ss.err saying why.
func (ss *session) pump() bool {
	ss.burst = 0
	for {
		again, err := ss.step()
		switch {
		case err == errAgain: //nolint:errorlint // our own sentinel on the hot path
			return false
		case err != nil:
			ss.err = err
			return true
		case !again:
			return true
		}
		if ss.scope.draining.Load() {
			ss.forget()
			return true
		}
	}
}

// forget drops requests that have come but will not be answered: closing a socket that has unread bytes resets the connection, and
// the client would lose the end of the last reply.
func (ss *session) forget() {
	for range inboxRequests {
		if _, err := ss.link.drop(copyBuffer); err != nil {
			return
		}
	}
}

// step answers one request or reads from the link. It returns false after the client's good-bye.
func (ss *session) step() (bool, error) {
	if ss.skip > 0 {
		return true, ss.dropPayload()
	}
	if ss.in.len() < requestSize {
		n, err := ss.link.read(ss.in.free())
		ss.in.w += n
		return true, err
	}
	req, err := parseRequest(ss.in.bytes())
	if err != nil {
		return false, err
	}
	ss.in.consume(requestSize)
	what, eno := judge(req, ss.size)
	if what == doRead {
		return true, ss.read(req)
	}
	ss.tally.others.Add(1)
	switch what {
	case doSkip:
		ss.skip, ss.skipCookie = int(req.length), req.cookie
		if ss.skip > 0 {
			return true, nil
		}
		return true, ss.status(eno, req.cookie)
	case doDisconnect:
		return false, nil
	case doHangUp:
		return false, errProtocol
	}
	return true, ss.status(eno, req.cookie)
}

func (ss *session) read(req request) error {
	if ss.rec != nil && !ss.rec.Read(req.offset, req.length) {
		ss.closeRecorder()
	}
	more := ss.moreReads()
	if ss.wait != nil {
		if err := ss.wait.Wait(ss.ctx, int64(req.offset), int64(req.length)); err != nil {
			return &lateRead{err}
		}
		more = false // the next may have to wait: nothing must stay in the socket for it
	}
	putSimpleReply(&ss.head, errnoNone, req.cookie)
	if err := ss.link.reply(&ss.head, int64(req.offset), int(req.length), more); err != nil {
		return err
	}
	ss.tally.reads.Add(1)
	ss.tally.bytes.Add(uint64(req.length))
	if ss.burst += int(req.length); ss.burst >= burstBytes && ss.in.len() >= requestSize {
		ss.burst = 0
		runtime.Gosched()
	}
	return nil
}

func (ss *session) closeRecorder() {
	if ss.rec != nil {
		ss.rec.Close()
		ss.rec = nil
	}
}

// moreReads reports whether the next reply follows without waiting for the client, so that both may share a segment.
func (ss *session) moreReads() bool {
	if ss.in.len() < requestSize {
		return false
	}
	req, err := parseRequest(ss.in.bytes())
	return err == nil && req.command == cmdRead
}

func (ss *session) status(e errno, cookie uint64) error {
	if e != errnoNone {
		ss.tally.errors.Add(1)
	}
	putSimpleReply(&ss.head, e, cookie)
	return ss.link.reply(&ss.head, 0, 0, ss.moreReads())
}

// dropPayload consumes the payload of a refused write and answers it when all has come.
func (ss *session) dropPayload() error {
	n := min(ss.in.len(), ss.skip)
	ss.in.consume(n)
	if n == 0 {
		var err error
		if n, err = ss.link.drop(ss.skip); err != nil {
			return err
		}
	}
	if ss.skip -= n; ss.skip > 0 {
		return nil
	}
	return ss.status(errnoPerm, ss.skipCookie)
}
