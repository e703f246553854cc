package nested

import (
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/deflate"
)

// Find returns the streams of a file in order. They do not overlap. The name is not looked at: content tells better. A file without
// streams costs next to nothing; one with streams of an unknown encoder costs their unpacking and the packing of their first blocks. It takes
// the memory of the content and stored bytes of one stream, twice, and what EncodeMemory tells.
func Find(name string, data []byte, limit Limits) []Stream {
	f := finder{data: data, limit: limit.withDefaults()}
	switch {
	case isGzip(data):
		f.gzip(0)
	case isCpio(data):
		f.initrd()
	case isXZ(data):
		f.xz(0)
	case isKernel(data):
		f.kernel()
	case isZip(data):
		f.zip()
	}
	return f.streams
}

// finder collects the streams of one file.
type finder struct {
	data    []byte
	limit   Limits
	streams []Stream
	in      inflater
	enc     Encoder
	recent  []deflate.Params // that have succeeded in this file, the last one first

	recentXZ XZPreset // that has succeeded in this file, or 0
}

// prove looks for an encoder that makes stored out of plain. The recent ones come first, then those of hint, then all others.
func (f *finder) prove(stored, plain []byte, hint []deflate.Params) (deflate.Params, bool) {
	tries := 0
	for _, list := range [][]deflate.Params{f.recent, hint} {
		for _, p := range list {
			if tries++; tries > f.limit.MaxTries {
				return p, false
			}
			if f.enc.equal(stored, plain, p) {
				f.remember(p)
				return p, true
			}
		}
	}
	return deflate.Params{}, false
}

// remember moves p to the front of recent, which stays short.
func (f *finder) remember(p deflate.Params) {
	if i := slices.Index(f.recent, p); i >= 0 {
		f.recent = slices.Delete(f.recent, i, i+1)
	}
	f.recent = slices.Insert(f.recent, 0, p)
	f.recent = f.recent[:min(len(f.recent), 3)]
}

// candidates lists every encoder once: level by level in the order given, each level with the variants in the order given.
func candidates(levels []int, variants []deflate.Params) []deflate.Params {
	list := make([]deflate.Params, 0, len(levels)*len(variants))
	for _, level := range levels {
		for _, v := range variants {
			v.Level = level
			list = append(list, v)
		}
	}
	return list
}

// The variants that are worth trying.
func gnu() deflate.Params   { return deflate.Params{Variant: deflate.GNUGzip} }
func zlib8() deflate.Params { return deflate.Params{Variant: deflate.Zlib, MemLevel: 8} }
func zlib9() deflate.Params { return deflate.Params{Variant: deflate.Zlib, MemLevel: 9} }
