package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Magic numbers (proto.md, "Newstyle negotiation", "Fixed newstyle negotiation", "Transmission").
const (
	magicInit        uint64 = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption      uint64 = 0x49484156454F5054 // "IHAVEOPT"
	magicOptionReply uint64 = 0x0003e889045565a9
	magicRequest     uint32 = 0x25609513
	magicSimpleReply uint32 = 0x67446698
)

// Handshake flags of the server and the client's answer to them: the same bits.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// Transmission flags.
const (
	flagHasFlags     = 1 << 0
	flagReadOnly     = 1 << 1
	flagCanMultiConn = 1 << 8
)

// transmissionFlags is what every export is: read-only, and the same bytes on every connection. NBD_FLAG_SEND_FLUSH is not
// set: there is never anything to flush, and without the flag a kernel does not ask.
const transmissionFlags = flagHasFlags | flagReadOnly | flagCanMultiConn

type option uint32

// Options that are known by name; all others get replyErrUnsup.
const (
	optExportName option = 1
	optAbort      option = 2
	optList       option = 3
	optInfo       option = 6
	optGo         option = 7
)

type optionReply uint32

const (
	replyAck         optionReply = 1
	replyServer      optionReply = 2
	replyInfo        optionReply = 3
	replyErrUnsup    optionReply = 1<<31 + 1
	replyErrInvalid  optionReply = 1<<31 + 3
	replyErrUnknown  optionReply = 1<<31 + 6
	replyErrShutdown optionReply = 1<<31 + 7
	replyErrTooBig   optionReply = 1<<31 + 9
)

// Information types of NBD_OPT_INFO and NBD_OPT_GO.
const (
	infoExport      uint16 = 0
	infoName        uint16 = 1
	infoDescription uint16 = 2
	infoBlockSize   uint16 = 3
)

type command uint16

const (
	cmdRead        command = 0
	cmdWrite       command = 1
	cmdDisconnect  command = 2
	cmdFlush       command = 3
	cmdTrim        command = 4
	cmdWriteZeroes command = 6
)

// errno is an error value of a simple reply (proto.md, "Error values"). ESHUTDOWN and EIO are missing on purpose: see the
// package comment.
type errno uint32

const (
	errnoNone  errno = 0
	errnoPerm  errno = 1
	errnoInval errno = 22
)

const (
	greetingSize     = 18
	clientFlagsSize  = 4
	optionHeaderSize = 16
	requestSize      = 28
	replySize        = 16
	reservedZeroes   = 124

	// maxString is the longest string that the protocol allows (proto.md, "Conventions").
	maxString = 4096
	// maxOptionData is the longest option that is read into memory: a name of the longest allowed size and 2,000 information requests.
	maxOptionData = 8192
	// maxOptionSkip is the longest option that is skipped and answered with an error. Beyond it the connection ends.
	maxOptionSkip = 64 << 10
	// maxOptions bounds the options of one connection. Known clients send fewer than ten.
	maxOptions = 64
	// maxPayload is the largest request length. 32 MiB is what every client may use without asking (proto.md, "Block size constraints").
	maxPayload = 32 << 20
	// preferredBlock is the page size, in which the files are cached and dm-verity reads.
	preferredBlock = 4096
)

var errProtocol = errors.New("protocol violation")

func appendGreeting(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, magicInit)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	return binary.BigEndian.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)
}

type optionHeader struct {
	option option
	length uint32
}

func parseOptionHeader(b *[optionHeaderSize]byte) (optionHeader, error) {
	if m := binary.BigEndian.Uint64(b[:]); m != magicOption {
		return optionHeader{}, fmt.Errorf("option begins with %#x: %w", m, errProtocol)
	}
	return optionHeader{option(binary.BigEndian.Uint32(b[8:])), binary.BigEndian.Uint32(b[12:])}, nil
}

// infoRequest is the data of NBD_OPT_INFO and NBD_OPT_GO.
type infoRequest struct {
	name      string
	name1     bool // wants NBD_INFO_NAME
	describe  bool // wants NBD_INFO_DESCRIPTION
	blockSize bool // wants NBD_INFO_BLOCK_SIZE
}

// parseInfoRequest reads: 32 bits length of name, name, 16 bits number of requests, 16 bits each.
func parseInfoRequest(b []byte) (infoRequest, error) {
	var r infoRequest
	if len(b) < 6 {
		return r, fmt.Errorf("information request of %d bytes: %w", len(b), errProtocol)
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if n > maxString || int(n) > len(b)-2 {
		return r, fmt.Errorf("export name of %d bytes in %d bytes: %w", n, len(b), errProtocol)
	}
	r.name, b = string(b[:n]), b[n:]
	count := binary.BigEndian.Uint16(b)
	b = b[2:]
	if len(b) != 2*int(count) {
		return r, fmt.Errorf("%d information requests in %d bytes: %w", count, len(b), errProtocol)
	}
	for ; len(b) > 0; b = b[2:] {
		switch binary.BigEndian.Uint16(b) {
		case infoName:
			r.name1 = true
		case infoDescription:
			r.describe = true
		case infoBlockSize:
			r.blockSize = true
		}
	}
	return r, nil
}

// appendOptionReply appends a reply header for n bytes of data, which the caller appends.
func appendOptionReply(b []byte, o option, r optionReply, n int) []byte {
	b = binary.BigEndian.AppendUint64(b, magicOptionReply)
	b = binary.BigEndian.AppendUint32(b, uint32(o))
	b = binary.BigEndian.AppendUint32(b, uint32(r))
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// appendOptionText appends a reply whose data is a text for the user (or nothing).
func appendOptionText(b []byte, o option, r optionReply, text string) []byte {
	return append(appendOptionReply(b, o, r, len(text)), text...)
}

// appendServer appends one NBD_REP_SERVER: 32 bits length of name, name, description.
func appendServer(b []byte, e ExportInfo) []byte {
	b = appendOptionReply(b, optList, replyServer, 4+len(e.Name)+len(e.Description))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Name)))
	b = append(b, e.Name...)
	return append(b, e.Description...)
}

// appendInfo appends the NBD_REP_INFO replies that r asks for. NBD_INFO_EXPORT comes in any case, as the protocol demands.
func appendInfo(b []byte, o option, r infoRequest, e ExportInfo) []byte {
	b = appendOptionReply(b, o, replyInfo, 12)
	b = binary.BigEndian.AppendUint16(b, infoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Size))
	b = binary.BigEndian.AppendUint16(b, transmissionFlags)
	if r.name1 {
		b = appendOptionReply(b, o, replyInfo, 2+len(e.Name))
		b = binary.BigEndian.AppendUint16(b, infoName)
		b = append(b, e.Name...)
	}
	if r.describe && e.Description != "" {
		b = appendOptionReply(b, o, replyInfo, 2+len(e.Description))
		b = binary.BigEndian.AppendUint16(b, infoDescription)
		b = append(b, e.Description...)
	}
	if r.blockSize {
		// A minimum of 1 means that nobody must round; requests of other clients than the kernel are of any size.
		b = appendOptionReply(b, o, replyInfo, 14)
		b = binary.BigEndian.AppendUint16(b, infoBlockSize)
		b = binary.BigEndian.AppendUint32(b, 1)
		b = binary.BigEndian.AppendUint32(b, preferredBlock)
		b = binary.BigEndian.AppendUint32(b, maxPayload)
	}
	return b
}

// appendExportName appends the answer to NBD_OPT_EXPORT_NAME, which has no header.
func appendExportName(b []byte, e ExportInfo, noZeroes bool) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(e.Size))
	b = binary.BigEndian.AppendUint16(b, transmissionFlags)
	if !noZeroes {
		b = append(b, make([]byte, reservedZeroes)...)
	}
	return b
}

// request is one message of the transmission phase.
type request struct {
	flags   uint16
	command command
	cookie  uint64 // "handle" in older texts
	offset  uint64
	length  uint32
}

// parseRequest reads the first requestSize bytes of b, which must be there.
func parseRequest(b []byte) (request, error) {
	_ = b[requestSize-1]
	if m := binary.BigEndian.Uint32(b); m != magicRequest {
		return request{}, fmt.Errorf("request begins with %#x: %w", m, errProtocol)
	}
	return request{
		flags:   binary.BigEndian.Uint16(b[4:]),
		command: command(binary.BigEndian.Uint16(b[6:])),
		cookie:  binary.BigEndian.Uint64(b[8:]),
		offset:  binary.BigEndian.Uint64(b[16:]),
		length:  binary.BigEndian.Uint32(b[24:]),
	}, nil
}

func putSimpleReply(b *[replySize]byte, e errno, cookie uint64) {
	binary.BigEndian.PutUint32(b[:], magicSimpleReply)
	binary.BigEndian.PutUint32(b[4:], uint32(e))
	binary.BigEndian.PutUint64(b[8:], cookie)
}

// verdict says what to do with a request.
type verdict uint8

const (
	doReply      verdict = iota // send a reply with an error value, or none for success
	doRead                      // send a reply and the bytes asked for
	doSkip                      // drop length bytes of payload, then reply
	doDisconnect                // the client said good-bye
	doHangUp                    // the stream can't be followed any more
)

// judge decides on a request to a read-only export of size bytes; it is the whole policy of the transmission phase.
func judge(r request, size uint64) (verdict, errno) {
	switch r.command {
	case cmdRead:
		if r.flags != 0 || r.length > maxPayload || r.offset > size || uint64(r.length) > size-r.offset {
			return doReply, errnoInval
		}
		return doRead, errnoNone
	case cmdWrite:
		if r.length > maxPayload {
			return doHangUp, errnoInval
		}
		return doSkip, errnoPerm
	case cmdDisconnect:
		return doDisconnect, errnoNone
	case cmdFlush:
		if r.flags != 0 || r.offset != 0 || r.length != 0 {
			return doReply, errnoInval
		}
		return doReply, errnoNone
	case cmdTrim, cmdWriteZeroes:
		return doReply, errnoPerm
	}
	return doReply, errnoInval
}
