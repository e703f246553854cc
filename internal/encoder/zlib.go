package encoder

import (
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/deflate"
)

// zlibMemLevel is the memory level that mksquashfs gives to deflateInit2.
const zlibMemLevel = 8

// zlibCompressor makes zlib streams (RFC 1950) with each of its encoders, and takes the first of the shortest.
type zlibCompressor struct {
	encoders  []*deflate.Encoder
	best, try []byte
}

// newZlib makes one encoder for each strategy in the set; the empty set means the default strategy.
func newZlib(s Settings, strategies int) (compressor, error) {
	z := &zlibCompressor{}
	for strategy := range strategyNames {
		if max(strategies, 1)>>strategy&1 == 0 {
			continue
		}
		e, err := deflate.NewEncoder(deflate.Params{Variant: deflate.Zlib, Level: s.Level, MemLevel: zlibMemLevel,
			WindowBits: s.WindowBits, Strategy: strategy})
		if err != nil {
			return nil, err
		}
		z.encoders = append(z.encoders, e)
	}
	return z, nil
}

func (z *zlibCompressor) compress(src []byte, limit int) ([]byte, error) {
	for i, e := range z.encoders {
		out, err := e.CompressZlib(z.try[:0], src)
		if err != nil {
			return nil, fmt.Errorf("zlib: %w", err)
		}
		z.try = out
		if i == 0 || len(out) < len(z.best) {
			z.best, z.try = z.try, z.best
		}
	}
	if len(z.best) > limit {
		return nil, nil
	}
	return z.best, nil
}

func (z *zlibCompressor) close() { *z = zlibCompressor{} }
