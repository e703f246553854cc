//go:build component

package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// nbdReader is one NBD connection that reads here and there, as a kernel does: other people's programs read from one end to the other.
// Numbers are those of the NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md), negotiated by NBD_OPT_EXPORT_NAME.
type nbdReader struct {
	conn   net.Conn
	size   int64
	cookie uint64
}

// errNoExport tells that the server hung up on the export's name.
var errNoExport = errors.New("the server has no such export")

// openNBD opens an export from a host.
func (f *fleet) openNBD(from *testnet.Host, server, export string) (*nbdReader, error) {
	f.t.Helper()
	conn, err := from.Dial(f.ctx(), "tcp", server+":10809")
	if err != nil {
		return nil, err
	}
	f.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	r := &nbdReader{conn: conn}
	var hello [18]byte
	if _, err := io.ReadFull(conn, hello[:]); err != nil {
		return nil, err
	}
	if string(hello[:16]) != "NBDMAGICIHAVEOPT" {
		return nil, fmt.Errorf("greeting %q", hello[:])
	}
	ask := binary.BigEndian.AppendUint32(nil, 3) // fixed newstyle, no zeroes
	ask = append(ask, "IHAVEOPT"...)
	ask = binary.BigEndian.AppendUint32(ask, 1) // NBD_OPT_EXPORT_NAME
	ask = binary.BigEndian.AppendUint32(ask, uint32(len(export)))
	if _, err := conn.Write(append(ask, export...)); err != nil {
		return nil, err
	}
	var answer [10]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoExport, err)
	}
	r.size = int64(binary.BigEndian.Uint64(answer[:]))
	return r, nil
}

// read reads a part of the export. The connection is of no use after an error.
func (r *nbdReader) read(off, length int64) ([]byte, error) {
	r.cookie++
	ask := binary.BigEndian.AppendUint32(nil, 0x25609513)
	ask = binary.BigEndian.AppendUint32(ask, 0) // no flags, NBD_CMD_READ
	ask = binary.BigEndian.AppendUint64(ask, r.cookie)
	ask = binary.BigEndian.AppendUint64(ask, uint64(off))
	ask = binary.BigEndian.AppendUint32(ask, uint32(length))
	if err := r.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := r.conn.Write(ask); err != nil {
		return nil, err
	}
	var head [16]byte
	if _, err := io.ReadFull(r.conn, head[:]); err != nil {
		return nil, err
	}
	if m := binary.BigEndian.Uint32(head[:]); m != 0x67446698 || binary.BigEndian.Uint64(head[8:]) != r.cookie {
		return nil, fmt.Errorf("reply %x to request %d", head, r.cookie)
	}
	if e := binary.BigEndian.Uint32(head[4:]); e != 0 {
		return nil, fmt.Errorf("error %d", e)
	}
	data := make([]byte, length)
	_, err := io.ReadFull(r.conn, data)
	return data, err
}
