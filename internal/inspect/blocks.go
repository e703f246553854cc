package inspect

import (
	"context"
	"io/fs"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// checkBlocks reads all tables of the image, and every block if the inspection is deep.
func checkBlocks(ctx context.Context, image *squashfs.FS, o Options) error {
	if err := image.Walk(".", func(_ string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		return err
	}); err != nil {
		return err
	}
	progress := o.Progress
	if progress == nil {
		progress = func(int64, int64) {}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	err := image.Blocks(func(b squashfs.Block) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !o.Deep || b.Kind == squashfs.KindOther {
			return nil
		}
		progress(b.Offset, image.Superblock().BytesUsed)
		g.Go(func() error {
			_, err := image.Expand(b)
			return err
		})
		return nil
	})
	if waitErr := g.Wait(); waitErr != nil {
		return waitErr // before the context's error, which it caused
	}
	return err
}
