package nested_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/ltsp-fleet/ltsp-fleet/internal/deflate"
	"github.com/ltsp-fleet/ltsp-fleet/internal/nested"
)

// unpackCase is a stream or what resembles one.
type unpackCase struct {
	name   string
	s      nested.Stream
	stored []byte
	limit  int64
	want   error
}

// damages lists the ways in which a good stream is bad.
func damages(good nested.Stream, stored []byte) []unpackCase {
	limit := good.PlainLength
	changed := func(change func(s *nested.Stream)) nested.Stream {
		s := good
		change(&s)
		return s
	}
	bent := func(at int) []byte {
		b := bytes.Clone(stored)
		b[at] ^= 0xff
		return b
	}
	return []unpackCase{
		{"good", good, stored, limit, nil},
		{"limit", good, stored, limit - 1, nested.ErrLimit},
		{"codec", changed(func(s *nested.Stream) { s.Codec = 4 }), stored, limit, nested.ErrStream},
		{"content shorter", changed(func(s *nested.Stream) { s.PlainLength++ }), stored, limit + 1, nested.ErrStream},
		{"content longer", changed(func(s *nested.Stream) { s.PlainLength-- }), stored, limit, nested.ErrLimit},
		{"negative", changed(func(s *nested.Stream) { s.PlainLength = -1 }), stored, limit, nested.ErrLimit},
		{"fewer bytes", good, stored[1:], limit, nested.ErrStream},
		{"cut short", good, stored[:len(stored)-1], limit, nested.ErrStream},
		{"more bytes", good, append(bytes.Clone(stored), 0), limit, nested.ErrStream},
		{"said longer", changed(func(s *nested.Stream) { s.Length++ }), append(bytes.Clone(stored), 0), limit, nested.ErrStream},
		{"said endless", changed(func(s *nested.Stream) { s.Length = math.MaxInt64 }), stored, limit, nested.ErrStream},
		{"said negative", changed(func(s *nested.Stream) { s.Length = -1 }), stored, limit, nested.ErrStream},
		{"nothing", changed(func(s *nested.Stream) { s.Length = 0 }), nil, limit, nested.ErrStream},
		{"first byte", good, bent(0), limit, nested.ErrStream},
		{"last bytes", good, bent(len(stored) - 6), limit, nested.ErrStream},
	}
}

// unpackBoth checks that Plain and Unpack agree.
func unpackBoth(t *testing.T, c unpackCase, content []byte) {
	t.Helper()
	plain, err := nested.Plain(c.s, c.stored, c.limit)
	if !errors.Is(err, c.want) || c.want == nil && (err != nil || !bytes.Equal(plain, content)) {
		t.Errorf("%s: plain: %d bytes, %v", c.name, len(plain), err)
	}
	var out bytes.Buffer
	err = nested.Unpack(&out, c.s, iotest.HalfReader(bytes.NewReader(c.stored)), c.limit)
	if !errors.Is(err, c.want) || c.want == nil && (err != nil || !bytes.Equal(out.Bytes(), content)) {
		t.Errorf("%s: unpack: %d bytes, %v", c.name, out.Len(), err)
	}
	if int64(out.Len()) > max(c.limit, 0) {
		t.Errorf("%s: %d bytes written, %d allowed", c.name, out.Len(), c.limit)
	}
}

// gzipStream is a stream of the codec with its bytes.
func deflateStream(tb testing.TB, codec nested.Codec, text []byte, p deflate.Params) (nested.Stream, []byte) {
	tb.Helper()
	stored := packed(tb, text, p)
	if codec == nested.Gzip {
		stored = member("", stored, text)
	}
	return nested.Stream{Length: int64(len(stored)), Codec: codec, Params: nested.EncodeParams(p), PlainLength: int64(len(text))}, stored
}

func TestUnpackDeflate(t *testing.T) {
	for _, codec := range []nested.Codec{nested.Gzip, nested.Zip} {
		for _, text := range [][]byte{prose(1, 200_000), []byte("short")} {
			s, stored := deflateStream(t, codec, text, zlib6)
			for _, c := range damages(s, stored) {
				if codec == nested.Zip && (c.name == "last bytes" || c.name == "first byte") {
					continue // without a checksum it may well be other content
				}
				unpackBoth(t, c, text)
			}
		}
	}
	s, stored := deflateStream(t, nested.Zip, []byte{}, zlib6)
	unpackBoth(t, unpackCase{name: "empty", s: s, stored: stored}, nil)
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestUnpackPassesErrors: what is wrong with the files is not taken for a bad stream.
func TestUnpackPassesErrors(t *testing.T) {
	xz, xzStored := xzStream(t, prose(1, 50_000), anXZ)
	gzip, gzipStored := deflateStream(t, nested.Gzip, prose(1, 50_000), zlib6)
	for _, c := range []struct {
		s      nested.Stream
		stored []byte
	}{{xz, xzStored}, {gzip, gzipStored}} {
		for _, n := range []int{0, 1000, len(c.stored) - 3, len(c.stored)} {
			in := io.MultiReader(bytes.NewReader(c.stored[:n]), iotest.ErrReader(io.ErrNoProgress))
			if err := nested.Unpack(io.Discard, c.s, in, 1<<20); !errors.Is(err, io.ErrNoProgress) || errors.Is(err, nested.ErrStream) {
				t.Errorf("codec %d: reading %d bytes: %v", c.s.Codec, n, err)
			}
		}
		if err := nested.Unpack(brokenWriter{}, c.s, bytes.NewReader(c.stored), 1<<20); !errors.Is(err, io.ErrClosedPipe) || errors.Is(err, nested.ErrStream) {
			t.Errorf("codec %d: writing: %v", c.s.Codec, err)
		}
	}
}

// TestUnpackMemory: content far longer than what may be held.
func TestUnpackMemory(t *testing.T) {
	text := make([]byte, 64<<20)
	s, stored := deflateStream(t, nested.Gzip, text, zlib6)
	if got := allocated(t, func() error { return nested.Unpack(io.Discard, s, bytes.NewReader(stored), 1<<30) }); got > 200<<10 {
		t.Errorf("%d bytes", got)
	}
}

// allocated returns the bytes that f takes from the heap, given back or not.
func allocated(t *testing.T, f func() error) int64 {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := f(); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}
