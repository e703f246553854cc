package nbd

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseInfoRequest(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxString)
	tests := []struct {
		name string
		data []byte
		want infoRequest
		err  error
	}{
		{"plain", appendInfoRequest(nil, "lab@1"), infoRequest{name: "lab@1"}, nil},
		{"default export", appendInfoRequest(nil, ""), infoRequest{}, nil},
		{"all", appendInfoRequest(nil, "x", infoExport, infoName, infoDescription, infoBlockSize, 77), infoRequest{"x", true, true, true}, nil},
		{"longest name", appendInfoRequest(nil, long), infoRequest{name: long}, nil},
		{"too long name", appendInfoRequest(nil, long+"x"), infoRequest{}, errProtocol},
		{"nothing", nil, infoRequest{}, errProtocol},
		{"short", []byte{0, 0, 0, 0, 0}, infoRequest{}, errProtocol},
		{"name beyond the end", binary.BigEndian.AppendUint32(nil, 10), infoRequest{}, errProtocol},
		{"name over the count", append(binary.BigEndian.AppendUint32(nil, 3), "abcd"...), infoRequest{}, errProtocol},
		{"huge name", append(binary.BigEndian.AppendUint32(nil, math.MaxUint32), "abcdef"...), infoRequest{}, errProtocol},
		{"fewer requests than counted", append(appendInfoRequest(nil, "x")[:5], 0, 2, 0, 1), infoRequest{}, errProtocol},
		{"bytes behind", append(appendInfoRequest(nil, "x"), 0), infoRequest{}, errProtocol},
	}
	for _, tt := range tests {
		got, err := parseInfoRequest(tt.data)
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: error %v, want %v", tt.name, err, tt.err)
			continue
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(infoRequest{})); err == nil && diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	read := func(off uint64, n uint32) request { return request{command: cmdRead, offset: off, length: n} }
	tests := []struct {
		name string
		req  request
		want verdict
		eno  errno
	}{
		{"read", read(0, 4096), doRead, errnoNone},
		{"read unaligned", read(5, 7), doRead, errnoNone},
		{"read nothing", read(0, 0), doRead, errnoNone},
		{"read nothing at the end", read(size, 0), doRead, errnoNone},
		{"read all", read(0, size), doRead, errnoNone},
		{"read last byte", read(size-1, 1), doRead, errnoNone},
		{"read one too many", read(size-1, 2), doReply, errnoInval},
		{"read behind", read(size, 1), doReply, errnoInval},
		{"read far behind", read(math.MaxUint64, 1), doReply, errnoInval},
		{"read with a sum that overflows", read(math.MaxUint64-10, 100), doReply, errnoInval},
		{"read too long", read(0, maxPayload+1), doReply, errnoInval},
		{"read with a flag", request{command: cmdRead, flags: 1, length: 512}, doReply, errnoInval},
		{"write", request{command: cmdWrite, length: 512}, doSkip, errnoPerm},
		{"write behind", request{command: cmdWrite, offset: size, length: 512}, doSkip, errnoPerm},
		{"longest write", request{command: cmdWrite, length: maxPayload}, doSkip, errnoPerm},
		{"write too long", request{command: cmdWrite, length: maxPayload + 1}, doHangUp, errnoInval},
		{"good-bye", request{command: cmdDisconnect}, doDisconnect, errnoNone},
		{"flush", request{command: cmdFlush}, doReply, errnoNone},
		{"flush with a length", request{command: cmdFlush, length: 1}, doReply, errnoInval},
		{"flush with an offset", request{command: cmdFlush, offset: 1}, doReply, errnoInval},
		{"trim", request{command: cmdTrim, length: 512}, doReply, errnoPerm},
		{"write zeroes", request{command: cmdWriteZeroes, length: 512}, doReply, errnoPerm},
		{"cache", request{command: 5, length: 512}, doReply, errnoInval},
		{"block status", request{command: 7, length: 512}, doReply, errnoInval},
		{"unknown", request{command: math.MaxUint16, length: 512}, doReply, errnoInval},
	}
	for _, tt := range tests {
		if got, eno := judge(tt.req, size); got != tt.want || eno != tt.eno {
			t.Errorf("%s: verdict %d error %d, want %d and %d", tt.name, got, eno, tt.want, tt.eno)
		}
	}
	// With a small export a long read is out of range, with a huge one it is still too long.
	if got, eno := judge(read(0, maxPayload+1), math.MaxInt64); got != doReply || eno != errnoInval {
		t.Errorf("long read of a huge export: verdict %d error %d", got, eno)
	}
	if got, _ := judge(read(0, maxPayload), math.MaxInt64); got != doRead {
		t.Errorf("longest read of a huge export: verdict %d", got)
	}
}

func TestParseRequest(t *testing.T) {
	t.Parallel()
	want := request{flags: 0x0102, command: 3, cookie: 0x0405060708090a0b, offset: 0x1112131415161718, length: 0x21222324}
	b := appendRequest(nil, want)
	if len(b) != requestSize {
		t.Fatalf("request of %d bytes", len(b))
	}
	got, err := parseRequest(b)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(request{})); err != nil || diff != "" {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	b[0] ^= 1
	if _, err := parseRequest(b); !errors.Is(err, errProtocol) {
		t.Errorf("bad magic: %v", err)
	}
}
