package nested

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/lzma"
)

const (
	xzMagic  = "\xfd7zXZ\x00"
	xzHeader = 12 // bytes of a stream's header
)

func isXZ(b []byte) bool { return bytes.HasPrefix(b, []byte(xzMagic)) }

// maxAlike is how many encoders may be wrong for a long stream whose beginning they pack the same way.
const maxAlike = 2

// xz collects the streams from offset on, zeros between them, and returns the end of the last one that is sound.
func (f *finder) xz(offset int) int {
	for len(f.streams) < f.limit.MaxStreams {
		rest := bytes.TrimLeft(f.data[offset:], "\x00")
		info, n, err := lzma.ParseXZ(rest)
		if err != nil {
			break
		}
		start := len(f.data) - len(rest)
		if p, ok := f.openXZ(info, rest[:n]); ok {
			f.streams = append(f.streams, Stream{
				Offset: int64(start), Length: int64(n), Codec: XZ, Params: EncodeXZParams(p), PlainLength: info.Plain,
			})
		}
		offset = start + n
	}
	return offset
}

// openXZ unpacks a stream and looks for its encoder; unproved ones are said to be of the first candidate.
func (f *finder) openXZ(info lzma.Info, stored []byte) (XZParams, bool) {
	p, ok := paramsOf(info)
	if !ok || info.Plain > f.limit.MaxPlain {
		return p, false
	}
	plain, err := lzma.DecodeXZ(stored, info.Plain)
	if err != nil {
		return p, false
	}
	presets := xzPresets(f.recentXZ, p.Dict)
	if f.limit.Unproved {
		p.Preset = presets[0]
		return p, true
	}
	p.Preset, ok = proveXZ(stored, plain, p, presets[:min(len(presets), f.limit.MaxTries)])
	if ok {
		f.recentXZ = p.Preset
	}
	return p, ok
}

// proveXZ looks for the preset with which p makes stored out of plain.
func proveXZ(stored, plain []byte, p XZParams, presets []XZPreset) (XZPreset, bool) {
	var enc lzma.Encoder
	defer enc.Close()
	stretch, content := xzStretch(stored)
	content = min(content+xzLookahead, len(plain))
	alike := 0
	for _, p.Preset = range presets {
		if content < len(plain)/2 {
			begin, err := enc.AppendXZ(nil, p.Stream(), plain[:content])
			if err != nil || !bytes.HasPrefix(xzBlock(begin), stretch) {
				continue
			}
			if alike++; alike > maxAlike {
				break
			}
		}
		again, err := enc.AppendXZ(make([]byte, 0, len(stored)), p.Stream(), plain)
		if err == nil && bytes.Equal(again, stored) {
			return p.Preset, true
		}
	}
	return 0, false
}

// Bounds of the beginning of a stream that is compared before all of it is. xz looks ahead by less than 5 KB.
const (
	xzStretchPacked = 32 << 10 // in chunks that are compressed: others are the same from all encoders
	xzStretchPlain  = 8 << 20
	xzLookahead     = 64 << 10
)

// xzStretch returns the first chunks of the stream's block and the length of their content, by the chunks' headers (there is no
// specification; Linux lib/xz/xz_dec_lzma2.c tells them). It does not read beyond what is there.
func xzStretch(stored []byte) (stretch []byte, content int) {
	block := xzBlock(stored)
	at, packed := 0, 0
	for packed < xzStretchPacked && content < xzStretchPlain {
		size, plain := lzma2Chunk(block[at:])
		if size == 0 || size > len(block)-at {
			break
		}
		if size < plain {
			packed += size
		}
		at += size
		content += plain
	}
	return block[:at], content
}

// lzma2Chunk returns how many bytes the chunk at the start of b takes and how many it is of; 0 at the end.
func lzma2Chunk(b []byte) (stored, content int) {
	switch {
	case len(b) < 6 || b[0] == 0:
		return 0, 0
	case b[0] < 0x80: // not compressed
		content = be16(b[1:]) + 1
		return 3 + content, content
	}
	stored = 5 + be16(b[3:]) + 1
	if b[0] >= 0xc0 { // new properties
		stored++
	}
	return stored, int(b[0]&0x1f)<<16 + be16(b[1:]) + 1
}

// xzBlock returns what follows the header of a stream and that of its block.
func xzBlock(b []byte) []byte {
	if len(b) <= xzHeader {
		return nil
	}
	return b[min(len(b), xzHeader+4*(int(b[xzHeader])+1)):]
}

// plainXZ is Plain for a stream that has been checked.
func plainXZ(s Stream, stored []byte) ([]byte, error) {
	info, n, err := lzma.ParseXZ(stored)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrStream, err)
	case info.Plain > s.PlainLength:
		return nil, fmt.Errorf("%w: %d bytes of content, not %d", ErrLimit, info.Plain, s.PlainLength)
	case n != len(stored) || info.Plain != s.PlainLength:
		return nil, fmt.Errorf("%w: %d of %d bytes make %d of %d", ErrStream, n, len(stored), info.Plain, s.PlainLength)
	}
	plain, err := lzma.DecodeXZ(stored, s.PlainLength)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStream, err)
	}
	return plain, nil
}

// appendXZ packs plain.
func appendXZ(dst []byte, s Stream, plain []byte) ([]byte, error) {
	p, err := DecodeXZParams(s.Params)
	if err != nil {
		return nil, err
	}
	dst, err = lzma.AppendXZ(dst, p.Stream(), plain)
	if errors.Is(err, lzma.ErrParams) { // the lengths do not fit into the header
		return nil, fmt.Errorf("%w: %w", ErrInexact, err)
	}
	return dst, err
}

// xzMemory is EncodeMemory for an XZ stream.
func xzMemory(s Stream) int64 {
	p, err := DecodeXZParams(s.Params)
	if err != nil {
		return 0
	}
	return lzma.EncoderMemory(p.encoder(), s.PlainLength)
}
