package nbd

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapLimit is the longest read that is sent from the mapping in one system call with its header. Beyond it a second call
// for sendfile costs less than the copy that it saves.
const mapLimit = 32 << 10

// tcpLink is the link over a TCP socket and a file. It makes two system calls for a small read and one to learn that the next
// request has not come yet, allocates nothing, and leaves waiting to the runtime's poller.
type tcpLink struct {
	conn    *net.TCPConn
	raw     syscall.RawConn
	src     *source
	timeout time.Duration

	// Valid while run calls pump.
	fd  int
	msg unix.Msghdr
	iov [2]unix.Iovec

	// What tryWrite has still to do.
	flags    int
	left     int
	fileOff  int64 // with sending from the file
	fromFile bool
	writeErr error
	try      func(fd uintptr) bool // tryWrite, made once
}

func newTCPLink(conn *net.TCPConn, src *source, timeout time.Duration) (*tcpLink, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	l := &tcpLink{conn: conn, raw: raw, src: src, timeout: timeout}
	l.try = l.tryWrite
	l.msg.Iov = &l.iov[0]
	return l, nil
}

func (l *tcpLink) run(pump func() bool) error {
	return l.raw.Read(func(fd uintptr) bool {
		l.fd = int(fd)
		return pump()
	})
}

func (l *tcpLink) read(p []byte) (int, error) {
	return l.receive(unsafe.Pointer(unsafe.SliceData(p)), len(p), 0)
}

// drop uses that TCP forgets the bytes with MSG_TRUNC instead of copying them (tcp(7)).
func (l *tcpLink) drop(n int) (int, error) {
	return l.receive(nil, n, unix.MSG_TRUNC)
}

func (l *tcpLink) receive(p unsafe.Pointer, n, flags int) (int, error) {
	for {
		r, _, e := syscall.Syscall6(unix.SYS_RECVFROM, uintptr(l.fd), uintptr(p), uintptr(n), uintptr(flags), 0, 0)
		switch {
		case e == unix.EAGAIN:
			return 0, errAgain
		case e == unix.EINTR:
			continue
		case e != 0:
			return 0, os.NewSyscallError("recvfrom", e)
		case r == 0:
			return 0, io.EOF
		}
		return int(r), nil
	}
}

func (l *tcpLink) reply(head *[replySize]byte, off int64, n int, more bool) error {
	l.flags, l.fromFile = unix.MSG_NOSIGNAL, false
	if more {
		l.flags |= unix.MSG_MORE
	}
	l.iov[0].Base, l.iov[0].Len = &head[0], replySize
	if l.src.mapping != nil && n <= mapLimit {
		l.msg.Iovlen = 1
		if n > 0 {
			l.iov[1].Base, l.iov[1].Len = &l.src.mapping[l.src.lead+int(off)], uint64(n)
			l.msg.Iovlen = 2
		}
		return l.write(replySize + n)
	}
	l.msg.Iovlen = 1
	if n > 0 {
		l.flags |= unix.MSG_MORE
	}
	if err := l.write(replySize); err != nil || n == 0 {
		return err
	}
	l.fromFile, l.fileOff = true, l.src.offset+off
	return l.write(n)
}

// write sends n bytes from iov or from the file. While the socket is full it waits for the client, up to the timeout each time.
func (l *tcpLink) write(n int) error {
	l.left, l.writeErr = n, nil
	l.tryWrite(uintptr(l.fd))
	for l.left > 0 && l.writeErr == nil {
		if err := l.conn.SetWriteDeadline(time.Now().Add(l.timeout)); err != nil {
			return err
		}
		if err := l.raw.Write(l.try); err != nil {
			return err
		}
	}
	return l.writeErr
}

// tryWrite sends what the socket takes. It returns false if that is nothing: then raw.Write calls again when there is room.
func (l *tcpLink) tryWrite(fd uintptr) bool {
	progress := false
	for l.left > 0 {
		n, e := l.sendOnce(fd)
		switch {
		case e == unix.EAGAIN:
			return progress
		case e == unix.EINTR:
		case e != 0:
			l.writeErr = l.sendError(e)
			return true
		case n == 0:
			l.writeErr = &readFailure{io.ErrUnexpectedEOF} // only sendfile: the file has become shorter
			return true
		default:
			l.left -= n
			progress = true
		}
	}
	return true
}

// sendOnce makes one system call and notes what it has sent.
func (l *tcpLink) sendOnce(fd uintptr) (int, syscall.Errno) {
	if l.fromFile {
		n, _, e := syscall.Syscall6(unix.SYS_SENDFILE, fd, uintptr(l.src.fd), uintptr(unsafe.Pointer(&l.fileOff)), uintptr(l.left), 0, 0)
		return int(n), e
	}
	n, _, e := syscall.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&l.msg)), uintptr(l.flags))
	if e != 0 {
		return 0, e
	}
	for sent, i := int(n), 0; sent > 0; i++ {
		part := min(sent, int(l.iov[i].Len))
		l.iov[i].Base = (*byte)(unsafe.Add(unsafe.Pointer(l.iov[i].Base), part))
		l.iov[i].Len -= uint64(part)
		sent -= part
	}
	return int(n), 0
}

// sendError tells errors of the file from those of the socket.
func (l *tcpLink) sendError(e syscall.Errno) error {
	name := "sendmsg"
	if l.fromFile {
		name = "sendfile"
	}
	err := os.NewSyscallError(name, e)
	switch e {
	case unix.EIO, unix.EFAULT, unix.EUCLEAN, unix.EBADMSG, unix.ENODATA, unix.ENXIO, unix.ENODEV, unix.ESTALE:
		return &readFailure{err}
	}
	return err
}

// open returns the link for the connection and the export, and a function that ends it.
func (ss *session) open(export Export, info ExportInfo) (link, func(), error) {
	timeout := ss.srv.cfg.WriteTimeout
	conn, isTCP := ss.conn.(*net.TCPConn)
	file, isFile := export.(FileExport)
	if !isTCP || !isFile {
		return &streamLink{conn: ss.conn, export: export, buffers: &ss.srv.buffers, timeout: timeout}, func() {}, nil
	}
	f, offset := file.File()
	src, err := ss.srv.sources.acquire(f, offset, info.Size)
	if err != nil {
		return nil, nil, &readFailure{err}
	}
	l, err := newTCPLink(conn, src, timeout)
	if err != nil {
		ss.srv.sources.release(src)
		return nil, nil, err
	}
	return l, func() { ss.srv.sources.release(src) }, nil
}
