package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const exportReply = "\x00\x00\x00\x00\x00\x00\x00\x12\x34\x01\x03" // type 0, size 0x1234, flags 0x103

func small(name string) *memExport {
	return &memExport{info: ExportInfo{Name: name, Description: "the " + name, Size: 0x1234}, data: randomBytes(0x1234)}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	size := "\x00\x00\x00\x00\x00\x00\x00\x00\x12\x34\x01\x03"
	unknown := []repliedOption{{replyErrUnknown, "export is not available here"}}
	invalid := []repliedOption{{replyErrInvalid, "malformed request"}}
	unsupported := []repliedOption{{replyErrUnsup, ""}}
	ack := repliedOption{replyAck, ""}
	tests := []struct {
		name   string
		option option
		data   []byte
		want   []repliedOption
	}{
		{"info", optInfo, appendInfoRequest(nil, "lab"), []repliedOption{{replyInfo, size}, ack}},
		{"info of everything", optInfo, appendInfoRequest(nil, "lab", infoBlockSize, infoDescription, infoName, infoExport), []repliedOption{
			{replyInfo, size},
			{replyInfo, "\x00\x01lab"},
			{replyInfo, "\x00\x02the lab"},
			{replyInfo, "\x00\x03\x00\x00\x00\x01\x00\x00\x10\x00\x02\x00\x00\x00"},
			ack,
		}},
		{"info of an unknown export", optInfo, appendInfoRequest(nil, "lob"), unknown},
		{"go to an unknown export", optGo, appendInfoRequest(nil, "lob"), unknown},
		{"go to no default export", optGo, appendInfoRequest(nil, ""), unknown},
		{"malformed info", optInfo, []byte{1}, invalid},
		{"malformed go", optGo, nil, invalid},
		{"list with data", optList, []byte{1}, []repliedOption{{replyErrInvalid, "NBD_OPT_LIST has no data"}}},
		{"peek export", 4, []byte("x"), unsupported},
		{"start TLS", 5, nil, unsupported},
		{"structured replies", 8, nil, unsupported},
		{"list meta context", 9, []byte("anything"), unsupported},
		{"set meta context", 10, []byte("anything"), unsupported},
		{"extended headers", 11, nil, unsupported},
		{"unknown option", 1<<32 - 1, bytes.Repeat([]byte{1}, maxOptionData), unsupported},
		{"long option", optGo, make([]byte, maxOptionData+1), []repliedOption{{replyErrTooBig, "option too long"}}},
		{"longest option", 99, make([]byte, maxOptionSkip), []repliedOption{{replyErrTooBig, "option too long"}}},
		{"abort", optAbort, nil, []repliedOption{ack}},
	}
	h := start(t, Config{}, small("lab"))
	c := h.connect()
	c.hello(flagFixedNewstyle | flagNoZeroes)
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, c.haggle(tt.option, tt.data)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	c.closed() // after abort
}

func TestList(t *testing.T) {
	t.Parallel()
	var exports []Export
	want := []repliedOption{}
	for i := range 200 { // more than one write
		e := small(fmt.Sprintf("lab%03d@%064d", i, i))
		exports = append(exports, e)
		name := e.info.Name
		want = append(want, repliedOption{replyServer, "\x00\x00\x00" + string(rune(len(name))) + name + "the " + name})
	}
	exports = append(exports, small(strings.Repeat("n", maxString+1)))
	c := start(t, Config{}, exports...).connect()
	c.hello(flagFixedNewstyle)
	got := c.haggle(optList, nil)
	last := got[len(got)-1]
	got = got[:len(got)-1]
	slices.SortFunc(got, func(a, b repliedOption) int { return strings.Compare(a.Data, b.Data) })
	if diff := cmp.Diff(want, got); diff != "" || last.Type != replyAck {
		t.Errorf("final reply %v, others (-want +got):\n%s", last, diff)
	}
}

func TestExportName(t *testing.T) {
	t.Parallel()
	h := start(t, Config{}, small("lab"), small(""))
	for _, tt := range []struct {
		name   string
		flags  uint32
		zeroes int
	}{
		{"lab", flagFixedNewstyle, reservedZeroes},
		{"lab", flagFixedNewstyle | flagNoZeroes, 0},
		{"lab", 0, reservedZeroes}, // newstyle, not fixed
		{"", flagNoZeroes, 0},
	} {
		c := h.connect()
		c.hello(tt.flags)
		c.send(appendOption(nil, optExportName, []byte(tt.name)))
		want := exportReply[1:] + strings.Repeat("\x00", tt.zeroes)
		if got := string(c.receive(len(want))); got != want {
			t.Errorf("flags %d: export reply %x, want %x", tt.flags, got, want)
		}
		if got, want := c.read(1, 100), small("lab").data[1:101]; !bytes.Equal(got, want) {
			t.Errorf("flags %d: first read differs", tt.flags)
		}
	}
}

// TestHangUp has the clients whose connection must end, without any further reply.
func TestHangUp(t *testing.T) {
	t.Parallel()
	h := start(t, Config{}, small("lab"))
	flags := func(f uint32) []byte { return binary.BigEndian.AppendUint32(nil, f) }
	fixed := flags(flagFixedNewstyle)
	header := func(magic uint64, length uint32) []byte {
		b := binary.BigEndian.AppendUint64(bytes.Clone(fixed), magic)
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, uint32(optGo)), length)
	}
	for name, b := range map[string][]byte{
		"unknown client flag":    flags(flagFixedNewstyle | 4),
		"bad option magic":       header(magicOption+1, 0),
		"huge option":            header(magicOption, 1<<32-1),
		"option past the limit":  header(magicOption, maxOptionSkip+1),
		"unknown export by name": appendOption(bytes.Clone(fixed), optExportName, []byte("lob")),
		"export name too long":   appendOption(bytes.Clone(fixed), optExportName, make([]byte, maxString+1)),
		"export name far too long": appendOption(bytes.Clone(fixed), optExportName,
			make([]byte, maxOptionData+1)),
	} {
		t.Run(name, func(t *testing.T) {
			c := h.connect()
			c.t = t
			c.receive(greetingSize)
			c.send(b)
			c.closed()
		})
	}
}

func TestTooManyOptions(t *testing.T) {
	t.Parallel()
	c := start(t, Config{}, small("lab")).connect()
	c.hello(flagFixedNewstyle)
	for range maxOptions {
		c.haggle(99, nil)
	}
	c.closed()
}

// TestClientLeaves: NBD_OPT_ABORT and gone must not count as a failure.
func TestClientLeaves(t *testing.T) {
	t.Parallel()
	h := start(t, Config{}, small("lab"))
	c := h.connect()
	c.hello(flagFixedNewstyle)
	c.send(appendOption(nil, optAbort, nil))
	_ = c.conn.Close()
	d := h.connect()
	d.hello(flagFixedNewstyle)
	_ = d.conn.Close()
	eventually(t, func() bool { return len(h.Connections()) == 0 && h.metrics.accepted.Load() == 2 })
	if n := h.metrics.failed[failedClosed].Load(); n != 1 {
		t.Errorf("%d closed negotiations counted, want that of the second client only", n)
	}
}

func TestOpenError(t *testing.T) {
	t.Parallel()
	h := start(t, Config{}, small("lab"))
	c := h.connect()
	c.hello(flagFixedNewstyle)
	h.shelf.mu.Lock()
	h.shelf.openErr = errors.New("secret detail")
	h.shelf.mu.Unlock()
	want := []repliedOption{{replyErrUnknown, "export is not available here"}}
	if diff := cmp.Diff(want, c.haggle(optGo, appendInfoRequest(nil, "lab"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	h.shelf.mu.Lock()
	h.shelf.openErr = nil
	h.shelf.mu.Unlock()
	if r := c.haggle(optGo, appendInfoRequest(nil, "lab")); r[len(r)-1].Type != replyAck {
		t.Errorf("second try: %v", r)
	}
}
