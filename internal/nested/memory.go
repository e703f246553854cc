package nested

import (
	"bytes"
	"unsafe"

	"github.com/ltsp-fleet/ltsp-fleet/internal/deflate"
	"github.com/ltsp-fleet/ltsp-fleet/internal/lzma"
)

// usualRatio is more than deflate usually shortens by; buffers for the content of longer streams grow while they are filled.
const usualRatio = 4

// FindMemory bounds what Find takes beside data; 0 means that it finds nothing. Of deflate streams that are shortened by more than is
// usual it may take more.
func FindMemory(data []byte, limit Limits) int64 {
	limit = limit.withDefaults()
	switch {
	case isGzip(data), isCpio(data):
		return deflateFindMemory(int64(len(data)), limit)
	case isXZ(data):
		return xzFindMemory(data, limit)
	case isKernel(data):
		start, end, ok := kernelPayload(data)
		switch {
		case !ok || start >= end:
		case isXZ(data[start:]):
			return xzFindMemory(data[start:end], limit)
		case isGzip(data[start:]):
			return deflateFindMemory(int64(end-start), limit)
		}
	case isZip(data):
		var longest int64
		for _, m := range zipMembers(data, limit.MaxStreams) {
			if m.plain <= limit.MaxPlain && m.plain <= ratio*int64(m.length) {
				longest = max(longest, int64(m.length)+2*m.plain)
			}
		}
		return deflateMemory(longest)
	}
	return 0
}

func deflateMemory(n int64) int64 { return n + int64(unsafe.Sizeof(deflate.Encoder{})) }

// deflateFindMemory is for gzip streams in n bytes: the content, its buffer while it grows, and the packed bytes.
func deflateFindMemory(n int64, limit Limits) int64 {
	return deflateMemory(n + 2*min(usualRatio*n, limit.MaxPlain))
}

// xzFindMemory is for the streams at the start of b.
func xzFindMemory(b []byte, limit Limits) int64 {
	var most int64
	for {
		b = bytes.TrimLeft(b, "\x00")
		info, n, err := lzma.ParseXZ(b)
		if err != nil {
			return most
		}
		b = b[n:]
		p, ok := paramsOf(info)
		if !ok || info.Plain > limit.MaxPlain {
			continue
		}
		need := info.Plain
		if !limit.Unproved {
			p.Preset = Preset6 // no other takes more
			need += int64(n) + lzma.EncoderMemory(p.encoder(), info.Plain)
		}
		most = max(most, need)
	}
}
