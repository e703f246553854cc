//go:build cgo

package encoder

import (
	"fmt"

	"github.com/DataDog/zstd"
)

// zstdCompressor is ZSTD_compressCCtx on one context. mksquashfs gives it room for one block; here the room is ZSTD_compressBound,
// which makes the same bytes: what differs does not fit into the block and is stored raw in both cases.
type zstdCompressor struct {
	ctx   zstd.Ctx
	level int
	buf   []byte
}

func newZstd(level int) (compressor, error) {
	return &zstdCompressor{ctx: zstd.NewCtx(), level: level}, nil
}

func (z *zstdCompressor) compress(src []byte, limit int) ([]byte, error) {
	if bound := zstd.CompressBound(len(src)); cap(z.buf) < bound {
		z.buf = make([]byte, bound)
	}
	out, err := z.ctx.CompressLevel(z.buf, src, z.level)
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	if len(out) > limit {
		return nil, nil
	}
	return out, nil
}

// close drops the context; its finalizer gives the C memory back.
func (z *zstdCompressor) close() { z.ctx, z.buf = nil, nil }

func compressZstd(dst, src []byte, level int) ([]byte, error) {
	at := len(dst)
	out, err := zstd.CompressLevel(dst[at:at:cap(dst)], src, level)
	if err != nil {
		return nil, err
	}
	return append(dst, out...), nil // copies onto itself when dst had the room
}
