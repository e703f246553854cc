package nested_test

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/cpio"
	"github.com/ltsp-fleet/ltsp-fleet/internal/deflate"
	"github.com/ltsp-fleet/ltsp-fleet/internal/nested"
)

var (
	gnu9  = deflate.Params{Variant: deflate.GNUGzip, Level: 9}
	gnu6  = deflate.Params{Variant: deflate.GNUGzip, Level: 6}
	zlib6 = deflate.Params{Variant: deflate.Zlib, Level: 6, MemLevel: 8}
	zlib9 = deflate.Params{Variant: deflate.Zlib, Level: 9, MemLevel: 9}
)

// prose is text long enough that encoders differ.
func prose(seed, n int) []byte {
	var b strings.Builder
	for i := seed; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%x %d the %s\n", i*i*2654435761>>7&0xfffff, i%17, []string{"lease", "export", "image"}[i*i>>3%3])
	}
	return []byte(b.String()[:n])
}

func packed(tb testing.TB, plain []byte, p deflate.Params) []byte {
	tb.Helper()
	out, err := deflate.Compress(nil, plain, p)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// member returns a gzip member with the given header and a correct trailer.
func member(header string, stream, plain []byte) []byte {
	b := append([]byte(header), stream...)
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(plain))
	return binary.LittleEndian.AppendUint32(b, uint32(len(plain)))
}

const (
	plainHeader = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03"
	fullHeader  = "\x1f\x8b\x08\x1e\x01\x02\x03\x04\x00\x03\x05\x00extraname\x00comment\x00hc"
)

// foreign is a stream of an encoder that is not reproduced.
func foreign(tb testing.TB, plain []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, 6)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// checkAll proves again what Find promises.
func checkAll(tb testing.TB, data []byte, streams []nested.Stream, limit int64) {
	tb.Helper()
	var enc nested.Encoder
	end := int64(0)
	for _, s := range streams {
		if s.Offset < end || s.Length <= 0 || s.Offset+s.Length > int64(len(data)) {
			tb.Fatalf("%+v does not fit behind %d in %d", s, end, len(data))
		}
		end = s.Offset + s.Length
		stored := data[s.Offset:end]
		plain, err := nested.Plain(s, stored, limit)
		if err != nil {
			tb.Fatalf("%+v: %v", s, err)
		}
		again, err := enc.Encode([]byte("kept"), s, plain)
		if err != nil || !bytes.Equal(again[4:], stored) {
			tb.Fatalf("%+v: not the same bytes (%v)", s, err)
		}
	}
}

func TestFindGzip(t *testing.T) {
	text := prose(1, 150_000)
	stream := packed(t, text, gnu9)
	whole := member(plainHeader, stream, text)
	second := prose(2, 100_000)
	two := member(fullHeader, packed(t, second, zlib6), second)
	other := member(plainHeader, foreign(t, text), text)
	bent := bytes.Clone(whole)
	bent[len(bent)-5]++
	at := func(offset int, header string, s []byte, p deflate.Params, plain []byte) nested.Stream {
		return nested.Stream{
			Offset: int64(offset + len(header)), Length: int64(len(s) + 8), Codec: nested.Gzip,
			Params: nested.EncodeParams(p), PlainLength: int64(len(plain)),
		}
	}
	first := at(0, plainHeader, stream, gnu9, text)
	for _, c := range []struct {
		name string
		data []byte
		want []nested.Stream
	}{
		{"nothing", nil, nil},
		{"text", text, nil},
		{"one", whole, []nested.Stream{first}},
		{"trailing garbage", append(bytes.Clone(whole), "garbage"...), []nested.Stream{first}},
		{"two", append(bytes.Clone(whole), two...), []nested.Stream{first, at(len(whole), fullHeader, packed(t, second, zlib6), zlib6, second)}},
		{"foreign", other, nil},
		{"behind a foreign one", append(bytes.Clone(other), whole...), []nested.Stream{at(len(other), plainHeader, stream, gnu9, text)}},
		{"wrong checksum", bent, nil},
		{"cut short", whole[:len(whole)-1], nil},
		{"cut shorter", whole[:len(whole)/2], nil},
		{"header only", whole[:10], nil},
		{"reserved flag", append([]byte("\x1f\x8b\x08\x20"), whole[4:]...), nil},
		{"endless name", append([]byte("\x1f\x8b\x08\x08"), bytes.ReplaceAll(whole[4:], []byte{0}, []byte{1})...), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := nested.Find("file.gz", c.data, nested.Limits{})
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			checkAll(t, c.data, got, 1<<20)
		})
	}
}

func TestFindEveryEncoder(t *testing.T) {
	text := prose(3, 60_000)
	for level := 1; level <= 9; level++ {
		for _, p := range []deflate.Params{{Variant: deflate.GNUGzip}, {Variant: deflate.Zlib, MemLevel: 8}, {Variant: deflate.Zlib, MemLevel: 9}} {
			p.Level = level
			header := []byte(plainHeader)
			header[8] = []byte{0, 2, 4}[level%3]
			data := member(string(header), packed(t, text, p), text)
			if got := nested.Find("", data, nested.Limits{}); len(got) != 1 {
				t.Errorf("%+v: %v", p, got)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	text := prose(1, 100_000)
	one := member(plainHeader, packed(t, text, zlib6), text)
	data := bytes.Repeat(one, 3)
	for _, c := range []struct {
		limits nested.Limits
		want   int
	}{
		{nested.Limits{}, 3},
		{nested.Limits{MaxPlain: 100_000}, 3},
		{nested.Limits{MaxPlain: 99_999}, 0},
		{nested.Limits{MaxStreams: 2}, 2},
		{nested.Limits{MaxTries: 1}, 0},
	} {
		if got := nested.Find("", data, c.limits); len(got) != c.want {
			t.Errorf("%+v: %d streams, want %d", c.limits, len(got), c.want)
		}
	}
}

func TestFindInitrd(t *testing.T) {
	var early bytes.Buffer
	w := cpio.NewWriter(&early)
	if err := errors.Join(w.Dir("kernel", 0o755), w.File("kernel/ucode", 0o644, prose(5, 12_345)), w.Close()); err != nil {
		t.Fatal(err)
	}
	text := prose(4, 200_000)
	main := member("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", packed(t, text, gnu6), text)
	xz := xzBytes(t, text, anXZ)
	pad := make([]byte, 512)
	for _, c := range []struct {
		name  string
		parts [][]byte
		want  []int // indices of the parts that are found
	}{
		{"early and main", [][]byte{early.Bytes(), main}, []int{1}},
		{"padded", [][]byte{early.Bytes(), pad, early.Bytes(), pad[:4], main, pad}, []int{4}},
		{"two compressed", [][]byte{early.Bytes(), main, pad, early.Bytes(), main}, []int{1, 4}},
		{"no main", [][]byte{early.Bytes(), pad}, nil},
		{"xz", [][]byte{early.Bytes(), pad, xz, pad, main}, []int{2, 4}},
		{"broken xz", [][]byte{early.Bytes(), xz[:200], main}, nil},
		{"unknown main", [][]byte{early.Bytes(), []byte("\xfd7zXZ\x00"), main}, nil},
		{"no trailer", [][]byte{early.Bytes()[:early.Len()-130], main}, nil},
		{"bad number", [][]byte{bytes.Replace(early.Bytes(), []byte("0000000"), []byte("00zz000"), -1), main}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := bytes.Join(c.parts, nil)
			var offsets, want []int64
			for _, s := range nested.Find("initrd.img", data, nested.Limits{}) {
				offsets = append(offsets, s.Offset)
			}
			for _, i := range c.want {
				header := 10
				if len(c.parts[i]) == len(xz) {
					header = 0 // an xz stream begins with its header
				}
				want = append(want, int64(len(bytes.Join(c.parts[:i], nil))+header))
			}
			if diff := cmp.Diff(want, offsets); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			checkAll(t, data, nested.Find("", data, nested.Limits{}), 1<<20)
		})
	}
}

// archive makes a zip with a stored member, a foreign one, and those of the given encoders.
func archive(tb testing.TB, params ...deflate.Params) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	add := func(name string, method uint16, stored, plain []byte) {
		f, err := w.CreateRaw(&zip.FileHeader{
			Name: name, Method: method, CRC32: crc32.ChecksumIEEE(plain),
			CompressedSize64: uint64(len(stored)), UncompressedSize64: uint64(len(plain)),
		})
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := f.Write(stored); err != nil {
			tb.Fatal(err)
		}
	}
	text := prose(9, 80_000)
	add("stored", zip.Store, text, text)
	add("foreign", zip.Deflate, foreign(tb, text), text)
	for i, p := range params {
		text := prose(10+i, 90_000)
		add(fmt.Sprint("member", i), zip.Deflate, packed(tb, text, p), text)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// directoryFirst rearranges an archive as Mozilla does: a length, the directory, the members, the end record.
func directoryFirst(data []byte) []byte {
	le := binary.LittleEndian
	end := bytes.Clone(data[len(data)-22:])
	size, offset := le.Uint32(end[12:]), le.Uint32(end[16:])
	dir := bytes.Clone(data[offset : offset+size])
	for d := dir; len(d) > 0; {
		le.PutUint32(d[42:], le.Uint32(d[42:])+4+size)
		d = d[46+int(le.Uint16(d[28:]))+int(le.Uint16(d[30:]))+int(le.Uint16(d[32:])):]
	}
	le.PutUint32(end[16:], 4)
	return bytes.Join([][]byte{{1, 2, 0, 0}, dir, data[:offset], end}, nil)
}

func TestFindZip(t *testing.T) {
	data := archive(t, zlib9, zlib6, zlib6, gnu9)
	var want []uint16
	for _, p := range []deflate.Params{zlib9, zlib6, zlib6, gnu9} {
		want = append(want, nested.EncodeParams(p))
	}
	broken := bytes.Clone(data)
	broken[bytes.LastIndex(data, []byte("PK\x01\x02"))+16]++ // checksum of the last member
	for _, c := range []struct {
		name string
		data []byte
		want []uint16
	}{
		{"usual", data, want},
		{"directory first", directoryFirst(data), want},
		{"with comment", append(append(bytes.Clone(data[:len(data)-2]), 4, 0), "note"...), want},
		{"wrong checksum", broken, want[:3]},
		{"cut short", data[:len(data)-30], nil},
		{"empty", archive(t)[:22], nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			streams := nested.Find("a.zip", c.data, nested.Limits{})
			var got []uint16
			for _, s := range streams {
				got = append(got, s.Params)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			checkAll(t, c.data, streams, 1<<20)
		})
	}
}

func TestPlainRefuses(t *testing.T) {
	text := prose(1, 50_000)
	stored := member("", packed(t, text, zlib6), text)
	good := nested.Stream{Length: int64(len(stored)), Codec: nested.Gzip, Params: nested.EncodeParams(zlib6), PlainLength: int64(len(text))}
	if plain, err := nested.Plain(good, stored, int64(len(text))); err != nil || !bytes.Equal(plain, text) {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(s *nested.Stream, b []byte) []byte
		limit  int64
		want   error
	}{
		{"limit", func(s *nested.Stream, b []byte) []byte { return b }, 49_999, nested.ErrLimit},
		{"codec", func(s *nested.Stream, b []byte) []byte { s.Codec = 4; return b }, 1 << 20, nested.ErrStream},
		{"content shorter", func(s *nested.Stream, b []byte) []byte { s.PlainLength++; return b }, 1 << 20, nested.ErrStream},
		{"content longer", func(s *nested.Stream, b []byte) []byte { s.PlainLength--; return b }, 1 << 20, nested.ErrLimit},
		{"negative", func(s *nested.Stream, b []byte) []byte { s.PlainLength = -1; return b }, 1 << 20, nested.ErrLimit},
		{"fewer bytes", func(s *nested.Stream, b []byte) []byte { return b[1:] }, 1 << 20, nested.ErrStream},
		{"checksum", func(s *nested.Stream, b []byte) []byte { b[len(b)-6]++; return b }, 1 << 20, nested.ErrStream},
		{"damaged", func(s *nested.Stream, b []byte) []byte { b[0] = 7; return b }, 1 << 20, nested.ErrStream},
	} {
		s, b := good, bytes.Clone(stored)
		b = c.change(&s, b)
		if _, err := nested.Plain(s, b, c.limit); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	text := prose(1, 1000)
	good := nested.Stream{Length: int64(len(packed(t, text, zlib6))), Codec: nested.Zip, Params: nested.EncodeParams(zlib6), PlainLength: 1000}
	if _, err := nested.Encode(nil, good, text); err != nil {
		t.Fatal(err)
	}
	longer, codec, params := good, good, good
	longer.Length++
	codec.Codec = 0
	params.Params = 0
	for _, c := range []struct {
		name  string
		s     nested.Stream
		plain []byte
		want  error
	}{
		{"length", longer, text, nested.ErrInexact},
		{"codec", codec, text, nested.ErrStream},
		{"parameters", params, text, nested.ErrStream},
		{"content", good, text[1:], nested.ErrStream},
	} {
		if _, err := nested.Encode(nil, c.s, c.plain); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestParams(t *testing.T) {
	for _, p := range []deflate.Params{
		{Variant: deflate.GNUGzip, Level: 9, WindowBits: 15},
		{Variant: deflate.Zlib, Level: 1, MemLevel: 9, WindowBits: 8, Strategy: 4},
	} {
		if got, err := nested.DecodeParams(nested.EncodeParams(p)); err != nil || got != p {
			t.Errorf("%+v: %+v %v", p, got, err)
		}
	}
}

func TestList(t *testing.T) {
	streams := nested.Find("", archive(t, zlib9, zlib6, gnu9), nested.Limits{})
	b := nested.AppendStreams([]byte{}, streams)
	size := streams[2].Offset + streams[2].Length
	got, rest, err := nested.ParseStreams(append(bytes.Clone(b), "rest"...), size, nested.Limits{})
	if err != nil || string(rest) != "rest" || cmp.Diff(streams, got) != "" {
		t.Errorf("%v %q %v", got, rest, err)
	}
	for n := range b {
		if _, _, err := nested.ParseStreams(b[:n], size, nested.Limits{}); !errors.Is(err, nested.ErrStream) {
			t.Errorf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	if _, _, err := nested.ParseStreams(b, size-1, nested.Limits{}); !errors.Is(err, nested.ErrStream) {
		t.Errorf("file too short: %v", err)
	}
	if _, _, err := nested.ParseStreams(b, size, nested.Limits{MaxStreams: 2}); !errors.Is(err, nested.ErrLimit) {
		t.Errorf("number: %v", err)
	}
	if _, _, err := nested.ParseStreams(b, size, nested.Limits{MaxPlain: 80_000}); !errors.Is(err, nested.ErrLimit) {
		t.Errorf("content: %v", err)
	}
	if _, rest, err := nested.ParseStreams(nested.AppendStreams(nil, nil), 0, nested.Limits{}); err != nil || len(rest) != 0 {
		t.Errorf("none: %v", err)
	}
}
