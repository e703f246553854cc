package nbd

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// copyBuffer is the size of the buffers for exports without a file.
const copyBuffer = 128 << 10

// streamLink is the link over any connection and any export. It copies through a buffer that it borrows for each reply.
type streamLink struct {
	conn    net.Conn
	export  io.ReaderAt
	buffers *sync.Pool
	timeout time.Duration
}

func (l *streamLink) run(pump func() bool) error {
	for !pump() {
	}
	return nil
}

func (l *streamLink) read(p []byte) (int, error) {
	n, err := l.conn.Read(p)
	if n > 0 {
		return n, nil
	}
	return 0, err
}

func (l *streamLink) drop(n int) (int, error) {
	buf := l.buffers.Get().(*[]byte)
	defer l.buffers.Put(buf)
	return l.read((*buf)[:min(n, len(*buf))])
}

func (l *streamLink) reply(head *[replySize]byte, off int64, n int, _ bool) error {
	buf := l.buffers.Get().(*[]byte)
	defer l.buffers.Put(buf)
	used := copy(*buf, head[:])
	for {
		part := (*buf)[used:min(len(*buf), used+n)]
		if err := l.fetch(part, off); err != nil {
			return err
		}
		if err := l.conn.SetWriteDeadline(time.Now().Add(l.timeout)); err != nil {
			return err
		}
		if _, err := l.conn.Write((*buf)[:used+len(part)]); err != nil {
			return err
		}
		used, off, n = 0, off+int64(len(part)), n-len(part)
		if n == 0 {
			return nil
		}
	}
}

func (l *streamLink) fetch(p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	n, err := l.export.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &readFailure{err}
}
