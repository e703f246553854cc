package testvm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// DetachKey ends Attach: Ctrl-].
const DetachKey = 0x1d

// Attach connects a person's terminal with the console socket of a machine until they press DetachKey, the machine ends, in
// ends or ctx is over. When in is a terminal every key goes to the machine, Ctrl-C too; its settings are restored afterwards.
// A read of in may still be pending when Attach returns, so the caller does not read in again.
func Attach(ctx context.Context, socket string, in *os.File, out io.Writer) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("console: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	restore, err := rawMode(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("console: %w", err)
	}
	defer restore()
	go func() {
		typeKeys(conn, in)
		conn.Close()
	}()
	_, _ = io.Copy(out, conn) // the end of the connection is the end of the visit, whatever the reason
	return ctx.Err()
}

// typeKeys copies keys up to DetachKey.
func typeKeys(conn io.Writer, in io.Reader) {
	keys := make([]byte, 256)
	for {
		n, err := in.Read(keys)
		typed := keys[:n]
		detach := bytes.IndexByte(typed, DetachKey)
		if detach >= 0 {
			typed = typed[:detach]
		}
		if len(typed) > 0 {
			if _, err := conn.Write(typed); err != nil {
				return
			}
		}
		if detach >= 0 || err != nil {
			return
		}
	}
}

// rawMode switches a terminal to raw mode (cfmakeraw(3)) and returns how to undo it; other files are left alone.
func rawMode(fd int) (restore func(), err error) {
	saved, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}, nil // not a terminal
	}
	raw := *saved
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("raw terminal: %w", err)
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, saved) }, nil
}
