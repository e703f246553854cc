//go:build !cgo

package encoder

func newZstd(int) (compressor, error) { return nil, ErrNoCgo }

func compressZstd(_, _ []byte, _ int) ([]byte, error) { return nil, ErrNoCgo }
