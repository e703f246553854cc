// Package nbdclient opens an NBD export as far as the kernel wants it opened: TCP, the fixed newstyle handshake and NBD_OPT_GO (NBD proto.md,
// "Fixed newstyle negotiation"). The kernel's nbd driver does the rest on the socket.
package nbdclient

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Numbers of NBD proto.md.
const (
	magicServer = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption = 0x49484156454F5054 // "IHAVEOPT"
	magicReply  = 0x3e889045565a9

	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1

	optGo = 7

	repAck       = 1
	repInfo      = 3
	repErrorFlag = 1 << 31

	infoExport    = 0
	infoBlockSize = 3
)

// Transmission flags of an export that the agent looks at.
const (
	FlagHasFlags = 1 << 0
	FlagReadOnly = 1 << 1
)

// Bounds of what a server may send before the agent gives up.
const (
	maxReply   = 8 << 10 // bytes in one option reply; NBD proto.md bounds strings at 4096
	maxReplies = 32
	maxName    = 4096
)

var (
	// ErrProtocol tells that the other side does not speak NBD as it must.
	ErrProtocol = errors.New("not a usable NBD server")
	// ErrRefused tells that the server answered NBD_OPT_GO with an error, such as an unknown export.
	ErrRefused = errors.New("export refused")
	// ErrWrongExport tells that an export has another size or other flags than it must have.
	ErrWrongExport = errors.New("wrong export")
)

// Info is what a server says of an export. Block sizes are zero if it says nothing of them.
type Info struct {
	SizeBytes uint64
	Flags     uint16
	MinBlock  uint32
	MaxBlock  uint32
}

// Check refuses an export that is not the read-only disk of sizeBytes bytes that the boot configuration promises.
func (i Info) Check(sizeBytes uint64) error {
	if i.SizeBytes != sizeBytes {
		return fmt.Errorf("%w: it has %d bytes, the boot configuration says %d", ErrWrongExport, i.SizeBytes, sizeBytes)
	}
	if i.Flags&(FlagHasFlags|FlagReadOnly) != FlagHasFlags|FlagReadOnly {
		return fmt.Errorf("%w: it is not read-only (flags %#x)", ErrWrongExport, i.Flags)
	}
	_, err := i.BlockSize()
	return err
}

// BlockSize returns the block size to tell the kernel: 4096, or 512 if the size of the export asks for it.
func (i Info) BlockSize() (uint64, error) {
	for _, size := range []uint64{4096, 512} {
		if i.SizeBytes%size == 0 && uint64(i.MinBlock) <= size {
			return size, nil
		}
	}
	return 0, fmt.Errorf("%w: its size %d and its smallest block %d fit no block size of Linux", ErrWrongExport, i.SizeBytes, i.MinBlock)
}

// Negotiate speaks the handshake on a fresh connection until the server is in transmission phase for the export. The caller sets the
// deadline.
func Negotiate(conn io.ReadWriter, export string) (Info, error) {
	if len(export) > maxName {
		return Info{}, fmt.Errorf("%w: export name of %d bytes", ErrProtocol, len(export))
	}
	if err := greet(conn); err != nil {
		return Info{}, err
	}
	if _, err := conn.Write(goRequest(export)); err != nil {
		return Info{}, fmt.Errorf("ask for export: %w", err)
	}
	return readGoReplies(conn, export)
}

// greet reads the server's greeting, which comes first, and answers its flags.
func greet(conn io.ReadWriter) error {
	var b [18]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	if binary.BigEndian.Uint64(b[0:]) != magicServer || binary.BigEndian.Uint64(b[8:]) != magicOption {
		return fmt.Errorf("%w: its greeting is %q", ErrProtocol, b[:16])
	}
	flags := binary.BigEndian.Uint16(b[16:])
	if flags&flagFixedNewstyle == 0 {
		return fmt.Errorf("%w: no fixed newstyle negotiation", ErrProtocol)
	}
	answer := binary.BigEndian.AppendUint32(nil, uint32(flags&(flagFixedNewstyle|flagNoZeroes)))
	if _, err := conn.Write(answer); err != nil {
		return fmt.Errorf("answer greeting: %w", err)
	}
	return nil
}

// goRequest is NBD_OPT_GO with a request for the block sizes.
func goRequest(export string) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, optGo)
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(export)+2+2))
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint16(b, 1)
	return binary.BigEndian.AppendUint16(b, infoBlockSize)
}

// readGoReplies reads NBD_REP_INFO messages until NBD_REP_ACK.
func readGoReplies(conn io.Reader, export string) (Info, error) {
	var info Info
	seen := false
	for range maxReplies {
		kind, data, err := readReply(conn)
		switch {
		case err != nil:
			return Info{}, err
		case kind&repErrorFlag != 0:
			return Info{}, fmt.Errorf("%w: %.100q: %s", ErrRefused, export, replyError(kind, data))
		case kind == repAck && !seen:
			return Info{}, fmt.Errorf("%w: no size was given", ErrProtocol)
		case kind == repAck:
			return info, nil
		case kind == repInfo:
			if seen, err = info.add(data, seen); err != nil {
				return Info{}, err
			}
		}
	}
	return Info{}, fmt.Errorf("%w: more than %d replies to one option", ErrProtocol, maxReplies)
}

func readReply(conn io.Reader) (kind uint32, data []byte, err error) {
	var b [20]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return 0, nil, fmt.Errorf("read option reply: %w", err)
	}
	if binary.BigEndian.Uint64(b[0:]) != magicReply || binary.BigEndian.Uint32(b[8:]) != optGo {
		return 0, nil, fmt.Errorf("%w: bad option reply", ErrProtocol)
	}
	n := binary.BigEndian.Uint32(b[16:])
	if n > maxReply {
		return 0, nil, fmt.Errorf("%w: option reply of %d bytes", ErrProtocol, n)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(conn, data); err != nil {
		return 0, nil, fmt.Errorf("read option reply: %w", err)
	}
	return binary.BigEndian.Uint32(b[12:]), data, nil
}

// add takes in one NBD_REP_INFO. Information types that were not asked for are passed over, as NBD proto.md demands.
func (i *Info) add(data []byte, seen bool) (bool, error) {
	if len(data) < 2 {
		return seen, fmt.Errorf("%w: information of %d bytes", ErrProtocol, len(data))
	}
	switch kind, rest := binary.BigEndian.Uint16(data), data[2:]; kind {
	case infoExport:
		if len(rest) != 10 {
			return seen, fmt.Errorf("%w: NBD_INFO_EXPORT of %d bytes", ErrProtocol, len(data))
		}
		i.SizeBytes, i.Flags = binary.BigEndian.Uint64(rest), binary.BigEndian.Uint16(rest[8:])
		return true, nil
	case infoBlockSize:
		if len(rest) != 12 {
			return seen, fmt.Errorf("%w: NBD_INFO_BLOCK_SIZE of %d bytes", ErrProtocol, len(data))
		}
		i.MinBlock, i.MaxBlock = binary.BigEndian.Uint32(rest), binary.BigEndian.Uint32(rest[8:])
	}
	return seen, nil
}

// replyError names an error reply. The server's own words follow, if it sent some.
func replyError(kind uint32, data []byte) string {
	names := map[uint32]string{
		1: "the server does not know NBD_OPT_GO", 2: "forbidden by the server's policy", 3: "invalid request", 4: "not supported there",
		5: "the server wants TLS", 6: "unknown export", 7: "the server is shutting down", 8: "the server insists on block sizes", 9: "too big",
	}
	text, ok := names[kind&^uint32(repErrorFlag)]
	if !ok {
		text = fmt.Sprintf("error %#x", kind)
	}
	if len(data) > 0 {
		text += fmt.Sprintf(" (%.200q)", data)
	}
	return text
}
