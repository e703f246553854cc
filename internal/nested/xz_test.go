package nested_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/lzma"
	"github.com/ltsp-fleet/ltsp-fleet/internal/nested"
)

// The codes of 256 KiB, 1 MiB, 8 MiB.
const (
	dict256K, dict1M, dict8M = 12, 16, 22
)

var (
	anXZ     = nested.XZParams{Dict: dict256K, Check: lzma.CheckCRC64, Preset: nested.Preset6}
	kernelXZ = nested.XZParams{Dict: dict1M, X86: true, Check: lzma.CheckCRC32, Preset: nested.Preset6}
)

// xzBytes packs text.
func xzBytes(tb testing.TB, text []byte, p nested.XZParams) []byte {
	tb.Helper()
	b, err := lzma.AppendXZ(nil, p.Stream(), text)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// xzStream is a stream with its bytes.
func xzStream(tb testing.TB, text []byte, p nested.XZParams) (nested.Stream, []byte) {
	tb.Helper()
	b := xzBytes(tb, text, p)
	return nested.Stream{Length: int64(len(b)), Codec: nested.XZ, Params: nested.EncodeXZParams(p), PlainLength: int64(len(text))}, b
}

func TestXZParams(t *testing.T) {
	for _, c := range []struct {
		p    nested.XZParams
		want uint16
	}{
		{nested.XZParams{Dict: 22, Check: lzma.CheckCRC64, Preset: nested.Preset6}, 22 | 2<<7 | 7<<9},
		{nested.XZParams{Dict: 26, X86: true, Check: lzma.CheckCRC32, Preset: nested.Preset6}, 26 | 1<<6 | 1<<7 | 7<<9},
		{nested.XZParams{Dict: 36, Check: lzma.CheckSHA256, Header: 20, Preset: nested.Preset6e}, 36 | 3<<7 | 9<<9 | 3<<13},
		{nested.XZParams{Check: lzma.CheckNone, Preset: nested.Preset0, Header: 12}, 1<<9 | 1<<13},
	} {
		v := nested.EncodeXZParams(c.p)
		if v != c.want {
			t.Errorf("%+v: %#x, want %#x", c.p, v, c.want)
		}
		if got, err := nested.DecodeXZParams(v); err != nil || got != c.p {
			t.Errorf("%#x: %+v, %v", v, got, err)
		}
	}
	for _, v := range []uint16{0, 22, 37 | 7<<9, 63 | 7<<9, 22 | 10<<9, 22 | 15<<9, 22 | 7<<9 | 7<<13} {
		if p, err := nested.DecodeXZParams(v); !errors.Is(err, nested.ErrStream) {
			t.Errorf("%#x: %+v, %v", v, p, err)
		}
	}
}

// TestXZParamsAreEncoders: whatever can be decoded can pack.
func TestXZParamsAreEncoders(t *testing.T) {
	valid := 0
	for v := range 1 << 16 {
		p, err := nested.DecodeXZParams(uint16(v))
		if err != nil {
			continue
		}
		valid++
		if again := nested.EncodeXZParams(p); again != uint16(v) {
			t.Fatalf("%#x becomes %#x", v, again)
		}
		if err := p.Stream().Params.Check(); err != nil {
			t.Fatalf("%#x: %v", v, err)
		}
	}
	if want := 37 * 2 * 4 * 7 * 9; valid != want {
		t.Errorf("%d encoders, want %d", valid, want)
	}
}

func TestFindXZ(t *testing.T) {
	text := prose(1, 40_000)
	one := xzBytes(t, text, anXZ)
	second := prose(2, 3000)
	two := xzBytes(t, second, kernelXZ)
	foreign := xzBytes(t, text, anXZ)
	lc := anXZ.Stream()
	lc.Params.LC = 2
	other, err := lzma.AppendXZ(nil, lc, text)
	if err != nil {
		t.Fatal(err)
	}
	nice := anXZ.Stream()
	nice.Params.Nice = 48
	unknown, err := lzma.AppendXZ(nil, nice, text)
	if err != nil {
		t.Fatal(err)
	}
	foreign[len(foreign)/2]++
	at := func(offset int, b, plain []byte, p nested.XZParams) nested.Stream {
		return nested.Stream{
			Offset: int64(offset), Length: int64(len(b)), Codec: nested.XZ, Params: nested.EncodeXZParams(p), PlainLength: int64(len(plain)),
		}
	}
	first := at(0, one, text, anXZ)
	join := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	for _, c := range []struct {
		name     string
		data     []byte
		want     []nested.Stream
		unproved int // streams that are found without proof
	}{
		{"one", one, []nested.Stream{first}, 1},
		{"trailing garbage", join(one, []byte("garbage")), []nested.Stream{first}, 1},
		{"two", join(one, two), []nested.Stream{first, at(len(one), two, second, kernelXZ)}, 2},
		{"two with padding", join(one, make([]byte, 8), two, make([]byte, 4)), []nested.Stream{first, at(len(one)+8, two, second, kernelXZ)}, 2},
		{"unknown encoder", unknown, nil, 1},
		{"behind an unknown encoder", join(unknown, one), []nested.Stream{at(len(unknown), one, text, anXZ)}, 2},
		{"other properties", other, nil, 0},
		{"behind other properties", join(other, one), []nested.Stream{at(len(other), one, text, anXZ)}, 1},
		{"damaged", foreign, nil, 0},
		{"cut short", one[:len(one)-1], nil, 0},
		{"cut shorter", one[:len(one)/2], nil, 0},
		{"magic only", one[:6], nil, 0},
		{"header only", one[:12], nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := nested.Find("file.xz", c.data, nested.Limits{})
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			checkAll(t, c.data, got, 1<<20)
			got = nested.Find("file.xz", c.data, nested.Limits{Unproved: true})
			if len(got) != c.unproved {
				t.Errorf("unproved: %v", got)
			}
			for _, s := range got {
				if _, err := nested.Plain(s, c.data[s.Offset:s.Offset+s.Length], 1<<20); err != nil {
					t.Errorf("unproved: %v", err)
				}
			}
		})
	}
}

// TestFindEveryXZ finds what was packed, or an encoder that packs alike.
func TestFindEveryXZ(t *testing.T) {
	text := prose(3, 20_000)
	for preset := nested.Preset0; preset <= nested.Preset6e; preset++ {
		for _, p := range []nested.XZParams{
			{Dict: dict256K, Check: lzma.CheckNone},
			{Dict: dict1M, Check: lzma.CheckCRC32, X86: true},
			{Dict: dict1M, Check: lzma.CheckSHA256, Header: 20},
			{Dict: 3, Check: lzma.CheckCRC64},
		} {
			p.Preset = preset
			data := xzBytes(t, text, p)
			got := nested.Find("", data, nested.Limits{})
			if len(got) != 1 {
				t.Errorf("%+v: %v", p, got)
			}
			checkAll(t, data, got, 1<<20)
		}
	}
}

// TestFindLongXZ: the encoder of a stream that is first compared at its beginning.
func TestFindLongXZ(t *testing.T) {
	text := prose(1, 700_000)
	noise := make([]byte, 150_000)
	if _, err := rand.NewChaCha8([32]byte{}).Read(noise); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		p    nested.XZParams
		text []byte
	}{
		{anXZ, text},
		{nested.XZParams{Dict: dict1M, Check: lzma.CheckCRC32, X86: true, Preset: nested.Preset2}, text},
		{nested.XZParams{Dict: dict256K, Header: 20, Preset: nested.Preset1}, slices.Concat(noise, text)}, // all begin alike
	} {
		data := xzBytes(t, c.text, c.p)
		got := nested.Find("", data, nested.Limits{})
		if len(got) != 1 || got[0].Params != nested.EncodeXZParams(c.p) {
			t.Errorf("%+v: %v", c.p, got)
		}
	}
}

func TestXZLimits(t *testing.T) {
	text := prose(1, 50_000)
	fast := anXZ
	fast.Preset = nested.Preset1 // not among the first that are tried
	data := bytes.Repeat(xzBytes(t, text, fast), 3)
	for _, c := range []struct {
		limits nested.Limits
		want   int
	}{
		{nested.Limits{}, 3},
		{nested.Limits{MaxPlain: 50_000}, 3},
		{nested.Limits{MaxPlain: 49_999}, 0},
		{nested.Limits{MaxPlain: 49_999, Unproved: true}, 0},
		{nested.Limits{MaxStreams: 2}, 2},
		{nested.Limits{MaxTries: 1}, 0},
		{nested.Limits{MaxTries: 1, Unproved: true}, 3},
	} {
		if got := nested.Find("", data, c.limits); len(got) != c.want {
			t.Errorf("%+v: %d streams, want %d", c.limits, len(got), c.want)
		}
	}
}

func TestUnpackXZ(t *testing.T) {
	for _, p := range []nested.XZParams{anXZ, kernelXZ, {Dict: dict8M, Check: lzma.CheckSHA256, Header: 20, Preset: nested.Preset0}} {
		for _, text := range [][]byte{prose(1, 200_000), []byte("short")} {
			s, stored := xzStream(t, text, p)
			for _, c := range damages(s, stored) {
				unpackBoth(t, c, text)
			}
		}
	}
	s, stored := xzStream(t, nil, anXZ)
	unpackBoth(t, unpackCase{name: "empty", s: s, stored: stored}, nil)
}

// TestXZChecked: no byte of a stream can be changed unnoticed, if there is a check.
func TestXZChecked(t *testing.T) {
	for _, p := range []nested.XZParams{anXZ, kernelXZ} {
		s, stored := xzStream(t, prose(1, 300), p)
		for i := range stored {
			bent := bytes.Clone(stored)
			bent[i] ^= 1 << (i % 8)
			if _, err := nested.Plain(s, bent, 1<<20); !errors.Is(err, nested.ErrStream) && !errors.Is(err, nested.ErrLimit) {
				t.Errorf("byte %d of %d: %v", i, len(stored), err)
			}
			if got := nested.Find("", bent, nested.Limits{Unproved: true}); len(got) != 0 {
				t.Errorf("byte %d of %d: found", i, len(stored))
			}
		}
	}
}

func TestEncodeXZRefuses(t *testing.T) {
	text := prose(1, 1000)
	good, _ := xzStream(t, text, anXZ)
	if _, err := nested.Encode(nil, good, text); err != nil {
		t.Fatal(err)
	}
	longer, params := good, good
	longer.Length++
	params.Params = 0
	for _, c := range []struct {
		name  string
		s     nested.Stream
		plain []byte
		want  error
	}{
		{"length", longer, text, nested.ErrInexact},
		{"parameters", params, text, nested.ErrStream},
		{"content", good, text[1:], nested.ErrStream},
	} {
		if _, err := nested.Encode(nil, c.s, c.plain); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// bzImage makes a kernel file of the payload as the kernel's build does, with extra bytes behind the payload.
func bzImage(payload, extra []byte) []byte {
	const setup, offset = 3, 0x2cc
	b := make([]byte, (setup+1)*512+offset)
	b[0x1f1] = setup
	b[0x1fe], b[0x1ff] = 0x55, 0xaa
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(b[0x248:], offset)
	binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(payload)))
	return slices.Concat(b, payload, extra)
}

func TestFindKernel(t *testing.T) {
	text := prose(1, 80_000)
	stream := xzBytes(t, text, kernelXZ)
	payload := binary.LittleEndian.AppendUint32(bytes.Clone(stream), uint32(len(text)))
	gz := member(plainHeader, packed(t, text, gnu9), text)
	image := bzImage(payload, stream) // what is behind the payload is not looked at
	start := int64(len(image) - len(payload) - len(stream))
	xz := nested.Stream{Offset: start, Length: int64(len(stream)), Codec: nested.XZ, Params: nested.EncodeXZParams(kernelXZ), PlainLength: 80_000}
	zipped := nested.Stream{
		Offset: start + 10, Length: int64(len(gz) - 10), Codec: nested.Gzip, Params: nested.EncodeParams(gnu9), PlainLength: 80_000,
	}
	changed := func(at int, v ...byte) []byte {
		b := bytes.Clone(image)
		copy(b[at:], v)
		return b
	}
	for _, c := range []struct {
		name string
		data []byte
		want []nested.Stream
	}{
		{"xz", image, []nested.Stream{xz}},
		{"signed with MZ", changed(0, 'M', 'Z'), []nested.Stream{xz}},
		{"gzip", bzImage(gz, payload), []nested.Stream{zipped}},
		{"zstd", bzImage([]byte("\x28\xb5\x2f\xfd something"), payload), nil},
		{"no payload", bzImage(nil, payload), nil},
		{"no flag", changed(0x1fe, 0), nil},
		{"no magic", changed(0x202, 'h'), nil},
		{"old protocol", changed(0x206, 7), nil},
		{"offset too great", changed(0x248, 0xff, 0xff, 0xff, 0xff), nil},
		{"offset behind the end", changed(0x249, 0xff), nil},
		{"length too great", changed(0x24c, 0xff, 0xff, 0xff, 0xff), nil},
		{"length short by one", changed(0x24c, byte(len(stream)-1), byte((len(stream)-1)>>8), 0, 0), nil},
		{"cut short", image[:start+100], nil},
		{"header only", image[:0x250], nil},
		{"less", image[:0x24f], nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := nested.Find("vmlinuz", c.data, nested.Limits{})
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			checkAll(t, c.data, got, 1<<20)
		})
	}
	four := bzImage(payload, nil) // setup_sects 0 means 4
	four[0x1f1] = 0
	four = slices.Insert(four, 4*512, make([]byte, 512)...)
	xz.Offset += 512
	if diff := cmp.Diff([]nested.Stream{xz}, nested.Find("", four, nested.Limits{})); diff != "" {
		t.Errorf("no setup length: -want +got\n%s", diff)
	}
}

// TestPlainXZMemory: unpacking takes the content and little else.
func TestPlainXZMemory(t *testing.T) {
	const little = 256 << 10
	text := bytes.Repeat(prose(1, 100_000), 20)
	s, stored := xzStream(t, text, kernelXZ)
	var kept []byte
	content := allocated(t, func() error {
		kept = slices.Grow([]byte(nil), len(text)) // twice as much under the race detector
		return nil
	})
	got := allocated(t, func() (err error) {
		kept, err = nested.Plain(s, stored, 1<<30)
		return err
	})
	if len(kept) != len(text) || got > content+little {
		t.Errorf("%d bytes for content of %d", got, content)
	}
	if got := nested.EncodeMemory(s); got < 4<<20 || got > 32<<20 {
		t.Errorf("packing takes %d bytes", got)
	}
}

func TestEncodeMemory(t *testing.T) {
	gzip := nested.Stream{Codec: nested.Gzip, Params: nested.EncodeParams(gnu9), PlainLength: 1 << 20}
	if n := nested.EncodeMemory(gzip); n < 100<<10 || n > 2<<20 {
		t.Errorf("deflate: %d bytes", n)
	}
	for _, s := range []nested.Stream{{Codec: nested.XZ, PlainLength: 1 << 20}, {PlainLength: 1 << 20}} {
		if n := nested.EncodeMemory(s); n != 0 {
			t.Errorf("codec %d: %d bytes", s.Codec, n)
		}
	}
}
