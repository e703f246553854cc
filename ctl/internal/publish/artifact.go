package publish

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// addFile adds a whole file as an artifact, cut by size.
func (p *Prepared) addFile(ctx context.Context, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("artifact %s: %w", name, err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("artifact %s: %w", name, err)
	}
	p.close = append(p.close, f.Close)
	return p.add(ctx, name, f, info.Size(), chunk.CutFixed, nil)
}

// cutter is chunk.CutFixed or chunk.CutSquashfs.
type cutter func(context.Context, io.ReaderAt, int64, chunk.Progress) ([]chunk.Ref, error)

// add adds size bytes of r as an artifact. The bytes are hashed while they are cut.
func (p *Prepared) add(ctx context.Context, name string, r io.ReaderAt, size int64, cut cutter, progress chunk.Progress) error {
	a := manifest.Artifact{Name: name, Size: uint64(size)}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		a.Chunks, err = cut(ctx, r, size, progress)
		return err
	})
	g.Go(func() (err error) {
		a.SHA256, err = sum(ctx, r, size)
		return err
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("artifact %s: %w", name, err)
	}
	p.Draft.Artifacts = append(p.Draft.Artifacts, a)
	if p.files == nil {
		p.files = map[string]io.ReaderAt{}
	}
	p.files[name] = r
	return nil
}

// sum computes the SHA-256 of the first size bytes of r.
func sum(ctx context.Context, r io.ReaderAt, size int64) ([sha256.Size]byte, error) {
	h := sha256.New()
	section := io.NewSectionReader(r, 0, size)
	const step = 16 << 20 // between two looks at ctx
	for {
		if err := ctx.Err(); err != nil {
			return [sha256.Size]byte{}, err
		}
		if _, err := io.CopyN(h, section, step); errors.Is(err, io.EOF) {
			return [sha256.Size]byte(h.Sum(nil)), nil
		} else if err != nil {
			return [sha256.Size]byte{}, err
		}
	}
}
