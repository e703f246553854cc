package encoder

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// defaultSamples is how many blocks Probe tries when it is not told.
const defaultSamples = 64

// Probe tells with which settings the blocks of an image can be made again: it takes the settings from the image's own options, and
// compresses the contents of compressed blocks, evenly spread over the file, data, fragments and metadata alike. samples is how many blocks
// it tries at least, if there are so many, and at most twice of that; below 1 means 64. A block costs 20 ms at zstd level 15.
//
// tried is how many blocks were compressed, exact how many of them came out as they are stored. ErrNoEncoder matches when exact is 0,
// also when no block of the image is compressed. ErrNoCgo matches when the encoder is not in this program. Other
// errors are about the image (package squashfs) or are the context's.
func Probe(ctx context.Context, fs *squashfs.FS, samples int) (s Settings, exact, tried int, err error) {
	if samples < 1 {
		samples = defaultSamples
	}
	blocks, options, err := sample(ctx, fs, samples)
	if err != nil {
		return Settings{}, 0, 0, fmt.Errorf("probe encoder: %w", err)
	}
	if s, err = FromImage(fs.Superblock(), options); err != nil {
		return s, 0, 0, fmt.Errorf("probe encoder: %w", err)
	}
	e, err := New(s)
	if err != nil {
		return s, 0, 0, fmt.Errorf("probe encoder: %w", err)
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	for _, b := range blocks {
		if err := ctx.Err(); err != nil {
			return s, exact, tried, fmt.Errorf("probe encoder: %w", err)
		}
		same, err := e.reproduces(fs, b)
		if err != nil {
			return s, exact, tried, fmt.Errorf("probe encoder: %w", err)
		}
		tried++
		if same {
			exact++
		}
	}
	if exact == 0 {
		return s, 0, tried, fmt.Errorf("probe %s on %d blocks: %w", s, tried, ErrNoEncoder)
	}
	return s, exact, tried, nil
}

// sample picks samples to 2*samples compressed blocks in file order, and reads the compressor options if there are some.
func sample(ctx context.Context, fs *squashfs.FS, samples int) (picked []squashfs.Block, options []byte, err error) {
	seen, stride := 0, 1
	err = fs.Blocks(func(b squashfs.Block) error {
		if b.Kind == squashfs.KindOptions {
			options, err = fs.Expand(b)
			return err
		}
		if b.Raw {
			return nil
		}
		if seen%stride == 0 {
			picked = append(picked, b)
		}
		seen++
		if len(picked) < 2*samples {
			return nil
		}
		for i := range samples {
			picked[i] = picked[2*i]
		}
		picked, stride = picked[:samples], 2*stride
		return ctx.Err()
	})
	return picked, options, err
}

// reproduces tells whether the content of b compresses to the bytes that the image has for it.
func (e *Encoder) reproduces(fs *squashfs.FS, b squashfs.Block) (bool, error) {
	raw, err := fs.Expand(b)
	if err != nil {
		return false, err
	}
	if len(raw) == 0 {
		return false, nil
	}
	encode, stored := e.Block, b
	stored.Raw = true // to read the bytes as they lie there
	if isMetadata(b.Kind) {
		encode = e.Metadata
	}
	want, err := fs.Expand(stored)
	if err != nil {
		return false, err
	}
	got, compressed, err := encode(nil, raw)
	if err != nil {
		return false, err
	}
	return compressed && bytes.Equal(got, want), nil
}

func isMetadata(k squashfs.Kind) bool {
	return k != squashfs.KindData && k != squashfs.KindFragment
}
