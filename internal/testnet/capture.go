package testnet

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	snapLength    = 2048     // bytes kept of a frame: all of a real one, the beginning of what offload has joined
	captureBuffer = 16 << 20 // of the kernel, for the time that this process does not run
)

// Capture is a running packet capture. Methods are safe for concurrent use.
type Capture struct {
	File string // pcap file

	socket  *os.File
	once    sync.Once
	ended   chan struct{} // closed when the file is complete
	frames  int
	dropped uint32
	err     error
}

// Capture records the frames on the bridge, with the kernel's timestamps, into a pcap file for tcpdump or Wireshark. Frames
// sent after it has returned and before Stop is called are in the file; it also ends with ctx and with the lab. Of frames
// longer than 2048 bytes, which exist only inside one machine, the beginning is kept.
func (b *Bridge) Capture(ctx context.Context, file string) (*Capture, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("capture %s: %w", b.Name, err)
	}
	out, err := os.Create(file)
	if err != nil {
		return nil, fmt.Errorf("capture %s: %w", b.Name, err)
	}
	c := &Capture{File: file, ended: make(chan struct{})}
	err = inNamespace(b.lab.SwitchNamespace(), func() (err error) {
		c.socket, err = openCapture(b.Name)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("capture %s: %w", b.Name, err), out.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Stop() })
	go func() {
		defer close(c.ended)
		defer stop()
		c.err = errors.Join(c.record(out), out.Close())
		b.lab.log("%s: captured %d frames, lost %d, in %s", b.Name, c.frames, c.dropped, file)
	}()
	if !b.lab.onClose(func() { _ = c.Stop() }) {
		return nil, errors.Join(fmt.Errorf("capture %s: network lab %s is closed", b.Name, b.lab.label), c.Stop())
	}
	return c, nil
}

// Stop ends the capture; the file is complete afterwards. It may be called twice.
func (c *Capture) Stop() error {
	c.once.Do(func() { _ = c.socket.SetReadDeadline(time.Now()) })
	<-c.ended
	if c.err != nil {
		return fmt.Errorf("capture into %s: %w", c.File, c.err)
	}
	return nil
}

// openCapture opens a packet socket on an interface in the namespace of the calling thread (packet(7)).
func openCapture(name string) (*os.File, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	// Protocol 0 receives nothing until bind, so no frame of another interface slips in.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	everything := unix.PacketMreq{Ifindex: int32(link.Index), Type: unix.PACKET_MR_PROMISC}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &everything),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Index}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("packet socket on %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "capture "+name), nil
}

// record writes frames until the read deadline, and then what is queued already. The file is flushed whenever the queue is
// empty, so that it is of use also when this process is killed.
func (c *Capture) record(file io.Writer) error {
	defer c.socket.Close()
	conn, err := c.socket.SyscallConn()
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(file, 256<<10)
	if _, err := out.Write(pcapHeader()); err != nil {
		return err
	}
	reader := frameReader{frame: make([]byte, snapLength), control: make([]byte, 64)}
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		failed = c.drain(&reader, int(fd), out)
		return failed != nil
	})
	if err == nil {
		err = failed // a full disk, for example
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		ended := conn.Control(func(fd uintptr) {
			failed = c.drain(&reader, int(fd), out)
			if statistics, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
				c.dropped = statistics.Drops
			}
		})
		err = errors.Join(failed, ended)
	}
	return errors.Join(err, out.Flush())
}

// drain writes all frames that are queued; nil means that the queue is empty.
func (c *Capture) drain(r *frameReader, fd int, out *bufio.Writer) error {
	for {
		frame, length, at, err := r.next(fd)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return out.Flush()
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			continue
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		}
		c.frames++
		if _, err := out.Write(pcapRecord(at, len(frame), length)); err != nil {
			return err
		}
		if _, err := out.Write(frame); err != nil {
			return err
		}
	}
}

type frameReader struct {
	frame, control []byte
}

// next returns the kept part of the next frame, valid until the next call, its true length and when it passed.
func (r *frameReader) next(fd int) (frame []byte, length int, at time.Time, err error) {
	length, controlLength, _, _, err := unix.Recvmsg(fd, r.frame, r.control, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
	if err != nil {
		return nil, 0, time.Time{}, err
	}
	return r.frame[:min(length, len(r.frame))], length, timestamp(r.control[:controlLength]), nil
}

// timestamp finds the kernel's time in a control message (socket(7), SO_TIMESTAMPNS).
func timestamp(control []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return time.Now()
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			var ts unix.Timespec
			copy(unsafe.Slice((*byte)(unsafe.Pointer(&ts)), unsafe.Sizeof(ts)), m.Data)
			return time.Unix(ts.Unix())
		}
	}
	return time.Now()
}

// pcapHeader is the beginning of a pcap file with nanoseconds (draft-ietf-opsawg-pcap section 4).
func pcapHeader() []byte {
	const (
		magicNanoseconds = 0xa1b23c4d
		linkEthernet     = 1
	)
	header := binary.LittleEndian.AppendUint32(nil, magicNanoseconds)
	header = binary.LittleEndian.AppendUint16(header, 2) // version 2.4
	header = binary.LittleEndian.AppendUint16(header, 4)
	header = append(header, make([]byte, 8)...) // reserved
	header = binary.LittleEndian.AppendUint32(header, snapLength)
	return binary.LittleEndian.AppendUint32(header, linkEthernet)
}

// pcapRecord is what stands before each frame (section 5 there).
func pcapRecord(at time.Time, kept, length int) []byte {
	record := binary.LittleEndian.AppendUint32(nil, uint32(at.Unix()))
	record = binary.LittleEndian.AppendUint32(record, uint32(at.Nanosecond()))
	record = binary.LittleEndian.AppendUint32(record, uint32(kept))
	return binary.LittleEndian.AppendUint32(record, uint32(length))
}
