package encoder

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// zstdWindow is the largest window that CompressZstd uses (level 22), in bytes.
const zstdWindow = 128 << 20

// CompressZstd appends src to dst as one zstd frame (RFC 8878) that states its content's length, without checksum. level is 1 to 22. The
// same input gives the same bytes in every build of the project. Memory while it runs, for large inputs: level 3 about 4 MB, level 19 about
// 100 MB, level 22 about 800 MB. Without cgo it gives ErrNoCgo.
func CompressZstd(dst, src []byte, level int) ([]byte, error) {
	if level < 1 || level > 22 {
		return nil, fmt.Errorf("zstd level %d is not from 1 to 22", level)
	}
	out, err := compressZstd(dst, src, level)
	if err != nil {
		return nil, fmt.Errorf("compress %d bytes with zstd: %w", len(src), err)
	}
	return out, nil
}

// windowFloor is the window that even the smallest zstd frame may ask for, as RFC 8878 recommends. The decoder refuses a frame whose window
// is over its memory limit, so the limit that it is told is not smaller.
const windowFloor = 8 << 20

// DecompressZstd appends the content of the zstd frames in src to dst; it takes data from strangers. limit is the most bytes of content;
// more gives ErrTooLong, before or after some work. Memory is bounded by limit or 8 MiB, whichever is more. It does not use cgo.
func DecompressZstd(dst, src []byte, limit int) ([]byte, error) {
	if limit < 0 {
		return nil, fmt.Errorf("decompress zstd, limit %d: %w", limit, ErrTooLong)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderMaxMemory(uint64(max(limit, windowFloor))))
	if err != nil {
		return nil, fmt.Errorf("decompress zstd: %w", err)
	}
	defer d.Close()
	at := len(dst)
	out, err := d.DecodeAll(src, dst[at:at:cap(dst)])
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) || err == nil && len(out) > limit {
		return nil, fmt.Errorf("decompress zstd, %d bytes allowed: %w", limit, ErrTooLong)
	}
	if err != nil {
		return nil, fmt.Errorf("decompress zstd: %w", err)
	}
	return append(dst, out...), nil
}
