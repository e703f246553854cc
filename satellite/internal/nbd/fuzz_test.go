package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// script is a connection whose client has sent everything before it hears anything.
type script struct {
	in  *bytes.Reader
	out bytes.Buffer
}

// maxScriptOutput bounds what a fuzzed client may be sent.
const maxScriptOutput = 64 << 20

func (s *script) Read(p []byte) (int, error) { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error) {
	if s.out.Len()+len(p) > maxScriptOutput {
		return 0, errors.New("more than enough")
	}
	return s.out.Write(p)
}
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

func scripted(t testing.TB, in []byte, exports *shelf) (*session, *script) {
	t.Helper()
	srv, err := New(Config{Exports: exports})
	if err != nil {
		t.Fatal(err)
	}
	s := &script{in: bytes.NewReader(in)}
	return &session{srv: srv, scope: &scope{}, conn: s}, s
}

// FuzzNegotiate feeds any bytes to the option phase. What comes out must be well-formed and in proportion.
func FuzzNegotiate(f *testing.F) {
	hello := binary.BigEndian.AppendUint32(nil, flagFixedNewstyle|flagNoZeroes)
	// What libnbd, qemu and nbd-client send: the options they try first are ones we do not know.
	real := appendOption(bytes.Clone(hello), 11, nil)
	real = appendOption(real, 8, nil)
	real = appendOption(real, 10, append(appendInfoRequest(nil, "lab")[:7], "\x00\x00\x00\x01\x00\x00\x00\x0fbase:allocation"...))
	real = appendOption(real, optInfo, appendInfoRequest(nil, "lab", infoName, infoDescription, infoBlockSize))
	f.Add(appendOption(bytes.Clone(real), optGo, appendInfoRequest(nil, "lab", infoBlockSize)))
	f.Add(appendOption(appendOption(bytes.Clone(real), optList, nil), optAbort, nil))
	f.Add(appendOption(bytes.Clone(hello), optExportName, []byte("lab")))
	f.Add(appendOption(binary.BigEndian.AppendUint32(nil, 0), optExportName, nil))
	f.Add(appendOption(bytes.Clone(hello), 99, make([]byte, maxOptionData+1)))
	f.Fuzz(func(t *testing.T, in []byte) {
		shelf := oneExport(100)
		ss, s := scripted(t, in, shelf)
		export, err := ss.negotiate(context.Background())
		if (export == nil) == (err == nil) {
			t.Fatalf("export %v and error %v", export, err)
		}
		open := 0
		if export != nil {
			open = 1
		}
		if n := shelf.handles(); n != open {
			t.Fatalf("%d handles open, want %d", n, open)
		}
		if s.out.Len() > 4096+20*len(in) {
			t.Fatalf("%d bytes in, %d bytes out", len(in), s.out.Len())
		}
		checkOptionReplies(t, s.out.Bytes())
	})
}

// checkOptionReplies expects a greeting and option replies, and perhaps the answer to NBD_OPT_EXPORT_NAME at the end.
func checkOptionReplies(t *testing.T, b []byte) {
	t.Helper()
	if !bytes.HasPrefix(b, appendGreeting(nil)) {
		t.Fatalf("greeting %x", b)
	}
	for b = b[greetingSize:]; len(b) > 0; {
		if info := (ExportInfo{Size: 100}); bytes.Equal(b, appendExportName(nil, info, true)) || bytes.Equal(b, appendExportName(nil, info, false)) {
			return
		}
		if len(b) < 20 || binary.BigEndian.Uint64(b) != magicOptionReply {
			t.Fatalf("reply %x", b)
		}
		n := int(binary.BigEndian.Uint32(b[16:]))
		if n > len(b)-20 {
			t.Fatalf("reply of %d bytes has %d", n, len(b)-20)
		}
		b = b[20+n:]
	}
}

// FuzzTransmit feeds any bytes to the request phase and compares the answers with those of a simple model.
func FuzzTransmit(f *testing.F) {
	var good []byte
	good = appendRequest(good, request{command: cmdRead, cookie: 1, offset: 5, length: 10})
	good = appendRequest(good, request{command: cmdWrite, cookie: 2, length: 3})
	good = append(good, "abc"...)
	good = appendRequest(good, request{command: cmdRead, cookie: 3, offset: 0, length: 1000})
	good = appendRequest(good, request{command: cmdFlush, cookie: 4})
	good = appendRequest(good, request{command: cmdRead, cookie: 5, offset: 990, length: 11})
	f.Add(appendRequest(bytes.Clone(good), request{command: cmdDisconnect}))
	f.Add(append(bytes.Clone(good), good[:20]...))
	f.Add(append(bytes.Clone(good), make([]byte, requestSize)...))
	f.Add(appendRequest(nil, request{command: cmdWrite, length: 1 << 20}))
	f.Add(appendRequest(nil, request{command: cmdRead, flags: 1, offset: 1<<64 - 1, length: 1<<32 - 1}))
	f.Fuzz(func(t *testing.T, in []byte) {
		const size = 1000
		shelf := oneExport(size)
		export := shelf.exports["lab"].(*memExport)
		ss, s := scripted(t, in, shelf)
		_ = ss.transmit(context.Background(), export, export.Info())
		if want := modelReplies(in, export.data); !bytes.Equal(s.out.Bytes(), want) {
			t.Fatalf("replies %x, want %x", s.out.Bytes(), want)
		}
	})
}

// modelReplies is the request phase once more, written for clarity.
func modelReplies(in, data []byte) []byte {
	var out []byte
	reply := func(cookie []byte, e byte, payload []byte) {
		out = append(append(append(out, 0x67, 0x44, 0x66, 0x98, 0, 0, 0, e), cookie...), payload...)
	}
	for r := bytes.NewReader(in); ; {
		var b [28]byte
		if _, err := io.ReadFull(r, b[:]); err != nil || !bytes.Equal(b[:4], []byte{0x25, 0x60, 0x95, 0x13}) {
			return out
		}
		flags, cmd := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
		off, n := binary.BigEndian.Uint64(b[16:]), uint64(binary.BigEndian.Uint32(b[24:]))
		switch {
		case cmd == 0 && flags == 0 && off <= 1000 && n <= 1000 && off+n <= 1000:
			reply(b[8:16], 0, data[off:off+n])
		case cmd == 1 && (n > 32<<20 || n > uint64(r.Len())), cmd == 2:
			return out
		case cmd == 1:
			_, _ = r.Seek(int64(n), io.SeekCurrent)
			reply(b[8:16], 1, nil)
		case cmd == 3 && flags == 0 && off == 0 && n == 0:
			reply(b[8:16], 0, nil)
		case cmd == 4 || cmd == 6:
			reply(b[8:16], 1, nil)
		default:
			reply(b[8:16], 22, nil)
		}
	}
}
