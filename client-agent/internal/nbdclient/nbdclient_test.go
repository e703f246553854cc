package nbdclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	exportName = "lab@00"
	exportSize = 409600
)

func be(values ...any) []byte {
	var b []byte
	for _, v := range values {
		switch v := v.(type) {
		case string:
			b = append(b, v...)
		default:
			var err error
			if b, err = binary.Append(b, binary.BigEndian, v); err != nil {
				panic(err) // a mistake in the test's table
			}
		}
	}
	return b
}

func greeting(flags uint16) []byte { return be(uint64(magicServer), uint64(magicOption), flags) }

func reply(kind uint32, data []byte) []byte {
	return append(be(uint64(magicReply), uint32(optGo), kind, uint32(len(data))), data...)
}

func exportInfo(size uint64, flags uint16) []byte {
	return reply(repInfo, be(uint16(infoExport), size, flags))
}

func blockInfo(minimum, preferred, maximum uint32) []byte {
	return reply(repInfo, be(uint16(infoBlockSize), minimum, preferred, maximum))
}

// script plays a server that says everything at once and keeps what it is told.
type script struct {
	io.Reader
	heard bytes.Buffer
}

func (s *script) Write(p []byte) (int, error) { return s.heard.Write(p) }

func play(parts ...[]byte) *script { return &script{Reader: bytes.NewReader(bytes.Join(parts, nil))} }

func TestNegotiate(t *testing.T) {
	t.Parallel()
	s := play(greeting(flagFixedNewstyle|flagNoZeroes), reply(repInfo, be(uint16(1), "a name")), exportInfo(exportSize, 3),
		blockInfo(1, 4096, 1<<25), reply(repAck, nil), []byte("rest"))
	got, err := Negotiate(s, exportName)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Info{SizeBytes: exportSize, Flags: 3, MinBlock: 1, MaxBlock: 1 << 25}, got); diff != "" {
		t.Error(diff)
	}
	want := be(uint32(3), "IHAVEOPT", uint32(7), uint32(14), uint32(6), exportName, uint16(1), uint16(3))
	if diff := cmp.Diff(want, s.heard.Bytes()); diff != "" {
		t.Errorf("the server heard something else: %s", diff)
	}
	if rest, _ := io.ReadAll(s); string(rest) != "rest" {
		t.Errorf("%q is left for the kernel, want all that follows the handshake", rest)
	}
}

func TestNegotiateRefuses(t *testing.T) {
	t.Parallel()
	ok := greeting(flagFixedNewstyle)
	many := make([][]byte, 0, maxReplies+2)
	many = append(many, ok)
	for range maxReplies + 1 {
		many = append(many, exportInfo(1, 1))
	}
	tests := []struct {
		name  string
		parts [][]byte
		want  error
		text  string
	}{
		{"nothing", nil, io.EOF, "greeting"},
		{"HTTP", [][]byte{[]byte("HTTP/1.1 400 Bad Request\r\n")}, ErrProtocol, "HTTP/1.1"},
		{"oldstyle", [][]byte{be("NBDMAGIC", uint64(0x00420281861253), uint16(0))}, ErrProtocol, "greeting"},
		{"newstyle not fixed", [][]byte{greeting(0)}, ErrProtocol, "fixed newstyle"},
		{"unknown export", [][]byte{ok, reply(repErrorFlag|6, []byte("no such"))}, ErrRefused, `unknown export ("no such")`},
		{"unknown error", [][]byte{ok, reply(repErrorFlag|99, nil)}, ErrRefused, "error 0x80000063"},
		{"reply cut", [][]byte{ok, reply(repAck, nil)[:19]}, io.ErrUnexpectedEOF, "option reply"},
		{"data cut", [][]byte{ok, exportInfo(1, 1)[:25]}, io.ErrUnexpectedEOF, "option reply"},
		{"wrong magic", [][]byte{ok, be(uint64(1), uint32(7), uint32(1), uint32(0))}, ErrProtocol, "bad option reply"},
		{"other option", [][]byte{ok, be(uint64(magicReply), uint32(3), uint32(1), uint32(0))}, ErrProtocol, "bad option reply"},
		{"huge reply", [][]byte{ok, be(uint64(magicReply), uint32(7), uint32(3), uint32(1<<31))}, ErrProtocol, "2147483648 bytes"},
		{"no size", [][]byte{ok, reply(repAck, nil)}, ErrProtocol, "no size"},
		{"short information", [][]byte{ok, reply(repInfo, []byte{0})}, ErrProtocol, "information of 1"},
		{"short export", [][]byte{ok, reply(repInfo, be(uint16(0), uint64(1)))}, ErrProtocol, "NBD_INFO_EXPORT"},
		{"short block size", [][]byte{ok, reply(repInfo, be(uint16(3), uint64(1)))}, ErrProtocol, "NBD_INFO_BLOCK_SIZE"},
		{"endless", many, ErrProtocol, "more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Negotiate(play(tt.parts...), exportName)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		info  Info
		ok    bool
		block uint64
	}{
		{"fits", Info{SizeBytes: exportSize, Flags: 3}, true, 4096},
		{"with more flags", Info{SizeBytes: exportSize, Flags: 0x103, MinBlock: 4096}, true, 4096},
		{"smaller", Info{SizeBytes: exportSize - 4096, Flags: 3}, false, 0},
		{"writable", Info{SizeBytes: exportSize, Flags: 1}, false, 0},
		{"flags not valid", Info{SizeBytes: exportSize, Flags: 2}, false, 0},
		{"blocks too large", Info{SizeBytes: exportSize, Flags: 3, MinBlock: 65536}, false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := tt.info.Check(exportSize)
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrWrongExport) {
				t.Errorf("got %v", err)
			}
			if block, err := tt.info.BlockSize(); tt.ok && (err != nil || block != tt.block) {
				t.Errorf("block size %d, %v", block, err)
			}
		})
	}
	if block, err := (Info{SizeBytes: 4096 + 512}).BlockSize(); err != nil || block != 512 {
		t.Errorf("odd size: block size %d, %v", block, err)
	}
}

// serve accepts one connection, says the parts and keeps the connection open until the test ends.
func serve(t *testing.T, parts ...[]byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write(bytes.Join(parts, nil))
		_, _ = io.Copy(io.Discard, conn)
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func TestOpen(t *testing.T) {
	t.Parallel()
	addr := serve(t, greeting(flagFixedNewstyle), exportInfo(exportSize, 3), reply(repAck, nil), []byte("transmission"))
	file, info, err := Open(t.Context(), Target{Addr: addr, Export: exportName, SizeBytes: exportSize})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if info.SizeBytes != exportSize {
		t.Errorf("got %+v", info)
	}
	got := make([]byte, 12)
	if _, err := io.ReadFull(file, got); err != nil || string(got) != "transmission" {
		t.Errorf("the socket gives %q, %v", got, err)
	}
}

func TestOpenChecksSize(t *testing.T) {
	t.Parallel()
	addr := serve(t, greeting(flagFixedNewstyle), exportInfo(exportSize+4096, 3), reply(repAck, nil))
	_, _, err := Open(t.Context(), Target{Addr: addr, Export: exportName, SizeBytes: exportSize})
	if !errors.Is(err, ErrWrongExport) || !strings.Contains(err.Error(), addr) {
		t.Errorf("got %v, want ErrWrongExport with the address", err)
	}
}

func TestOpenGivesUpOnSilence(t *testing.T) {
	t.Parallel()
	addr := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		cancel()
	}()
	_, _, err := Open(ctx, Target{Addr: addr, Export: exportName})
	if !errors.Is(err, context.Canceled) && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want the end of the context", err)
	}
}

func FuzzNegotiate(f *testing.F) {
	f.Add(bytes.Join([][]byte{greeting(3), exportInfo(exportSize, 3), blockInfo(1, 2, 3), reply(repAck, nil)}, nil))
	f.Add(bytes.Join([][]byte{greeting(1), reply(repErrorFlag|6, []byte("x"))}, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := Negotiate(play(data), exportName)
		if err == nil {
			_ = info.Check(exportSize)
		}
	})
}
