package nested_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/deflate"
	"github.com/ltsp-fleet/ltsp-fleet/internal/nested"
)

const fuzzPlain = 1 << 20

func FuzzFind(f *testing.F) {
	text := prose(1, 500)
	one := member(plainHeader, packed(f, text, gnu9), text)
	f.Add(one)
	f.Add(append(member(fullHeader, packed(f, text, zlib6), text), one...))
	f.Add([]byte("07070100000000000001ED00000000000000000000000100000000000000000000000000000000000000000000000000000000000B00000000TRAILER!!!\x00\x00\x00" + string(one)))
	small := archive(f, zlib6)
	f.Add(small[len(small)-400:])
	f.Add(directoryFirst(small)[:600])
	xz := slices.Concat(xzBytes(f, text, anXZ), make([]byte, 4), xzBytes(f, text, kernelXZ))
	f.Add(xz)
	f.Add(bzImage(xz, one))
	f.Add(bzImage(one, xz))
	f.Fuzz(func(t *testing.T, data []byte) {
		limits := nested.Limits{MaxPlain: fuzzPlain, MaxStreams: 8, MaxTries: 4}
		checkUnproved(t, data, limits)
		streams := nested.Find("", data, limits)
		if len(streams) > limits.MaxStreams {
			t.Fatalf("%d streams", len(streams))
		}
		checkAll(t, data, streams, fuzzPlain)
		again, rest, err := nested.ParseStreams(nested.AppendStreams(nil, streams), int64(len(data)), limits)
		if err != nil || len(rest) != 0 || len(again) != len(streams) {
			t.Fatalf("list: %v", err)
		}
	})
}

// checkUnproved checks what Find promises without proof.
func checkUnproved(t *testing.T, data []byte, limits nested.Limits) {
	t.Helper()
	limits.Unproved = true
	for _, s := range nested.Find("", data, limits) {
		if _, err := nested.Plain(s, data[s.Offset:s.Offset+s.Length], fuzzPlain); err != nil {
			t.Fatalf("unproved %+v: %v", s, err)
		}
		if n := nested.EncodeMemory(s); n <= 0 {
			t.Fatalf("%+v takes %d bytes", s, n)
		}
	}
}

func FuzzPlain(f *testing.F) {
	text := prose(1, 500)
	f.Add(member("", packed(f, text, gnu9), text), uint8(1), int64(500))
	f.Add(packed(f, text, zlib6), uint8(2), int64(500))
	f.Add(packed(f, make([]byte, 500_000), zlib6), uint8(2), int64(500_000))
	f.Add(xzBytes(f, text, anXZ), uint8(3), int64(500))
	f.Add(xzBytes(f, make([]byte, 500_000), kernelXZ), uint8(3), int64(500_000))
	f.Fuzz(func(t *testing.T, stored []byte, codec uint8, length int64) {
		s := nested.Stream{Length: int64(len(stored)), Codec: nested.Codec(codec), PlainLength: length}
		plain, err := nested.Plain(s, stored, fuzzPlain)
		var out bytes.Buffer
		if e := nested.Unpack(&out, s, bytes.NewReader(stored), fuzzPlain); (e == nil) != (err == nil) || err == nil && !bytes.Equal(out.Bytes(), plain) {
			t.Fatalf("plain %v, unpack %v", err, e)
		}
		if err != nil {
			return
		}
		if int64(len(plain)) != length || length > fuzzPlain {
			t.Fatalf("%d bytes instead of %d", len(plain), length)
		}
	})
}

func FuzzParseStreams(f *testing.F) {
	f.Add(nested.AppendStreams(nil, []nested.Stream{
		{Offset: 10, Length: 20, Codec: nested.Gzip, Params: nested.EncodeParams(gnu9), PlainLength: 30},
		{Offset: 31, Length: 5, Codec: nested.XZ, Params: nested.EncodeXZParams(kernelXZ), PlainLength: 7},
		{Offset: 40, Length: 5, Codec: nested.Zip, Params: nested.EncodeParams(deflate.Params{Variant: deflate.Zlib, Level: 1}), PlainLength: 6},
	}), int64(100))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		streams, _, err := nested.ParseStreams(b, size, nested.Limits{MaxPlain: fuzzPlain})
		end := int64(0)
		for _, s := range streams {
			if s.Offset < end || s.Length <= 0 || s.Length > size-s.Offset || s.PlainLength < 0 || s.PlainLength > fuzzPlain {
				t.Fatalf("%+v behind %d in %d", s, end, size)
			}
			end = s.Offset + s.Length
		}
		if err != nil && streams != nil {
			t.Fatal("streams and an error")
		}
	})
}
