package delta

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// unitHash identifies the stored bytes of a unit: half of their SHA-256, which nobody can make collide either.
type unitHash [16]byte

// hashChunk is how many bytes a goroutine reads at once.
const hashChunk = 4 << 20

// hashUnits hashes the stored bytes of all units.
func hashUnits(ctx context.Context, src Source, units []unit, parallel int) ([]unitHash, error) {
	out := make([]unitHash, len(units))
	var mu sync.Mutex
	next := 0
	take := func() (from, to int) {
		mu.Lock()
		defer mu.Unlock()
		from = next
		for next < len(units) && (next == from || units[next].off+units[next].stored-units[from].off <= hashChunk) {
			next++
		}
		return from, next
	}
	g, ctx := errgroup.WithContext(ctx)
	for range parallel {
		g.Go(func() error {
			var buf []byte
			for {
				from, to := take()
				if from == to {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				start := units[from].off
				n := units[to-1].off + units[to-1].stored - start
				if int64(cap(buf)) < n {
					buf = make([]byte, n)
				}
				buf = buf[:n]
				if err := readAt(src, buf, start); err != nil {
					return err
				}
				for i := from; i < to; i++ {
					b := buf[units[i].off-start:][:units[i].stored]
					sum := sha256.Sum256(b)
					if units[i].packed {
						sum[0] ^= 1 // a copied block is compressed if and only if its source is
					}
					out[i] = unitHash(sum[:16])
				}
			}
		})
	}
	return out, g.Wait()
}

// identify computes an image's identity, and the hashes of its pieces.
func identify(ctx context.Context, src Source, parallel int) (Identity, [][32]byte, error) {
	id := Identity{Size: src.Size()}
	if id.Size <= 0 || id.Size > maxImageBytes {
		return id, nil, fmt.Errorf("image of %d bytes: %w", id.Size, ErrLimit)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		id.SHA256, err = hashAll(ctx, src)
		return err
	})
	size := verity.PaddedSize(uint64(id.Size))
	tree := &pieceHashes{level0: int64(verity.TreeSize(size)) - pieceCount(id.Size)*verity.BlockSize, hashes: make([][32]byte, pieceCount(id.Size))}
	g.Go(func() (err error) {
		id.Digest, err = verity.Compute(ctx, verity.Padded(src, id.Size), size, tree, max(1, parallel-1))
		return err
	})
	if err := g.Wait(); err != nil {
		return id, nil, fmt.Errorf("hash image: %w", err)
	}
	if size == verity.BlockSize {
		tree.hashes[0] = id.Digest
	}
	return id, tree.hashes, nil
}

// hashAll is the SHA-256 of the source.
func hashAll(ctx context.Context, src Source) ([32]byte, error) {
	h := sha256.New()
	if _, err := io.CopyBuffer(h, &contextReader{ctx: ctx, r: io.NewSectionReader(src, 0, src.Size())}, make([]byte, 1<<20)); err != nil {
		return [32]byte{}, err
	}
	return [32]byte(h.Sum(nil)), nil
}

// contextReader ends reading when the context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// pieceHashes receives a tree and keeps the hashes of its level 0 blocks.
type pieceHashes struct {
	level0 int64 // where level 0 begins
	hashes [][32]byte
}

// WriteAt implements io.WriterAt.
func (t *pieceHashes) WriteAt(p []byte, off int64) (int, error) {
	if off >= t.level0 && len(p) == verity.BlockSize {
		t.hashes[(off-t.level0)/verity.BlockSize] = sha256.Sum256(p)
	}
	return len(p), nil
}

// findRuns describes NEW's units as runs of copies from OLD's, going on in a run where that is possible.
func findRuns(old, neu []unitHash) []run {
	first := make(map[unitHash]int64, len(old))
	for i, h := range slices.Backward(old) {
		first[h] = int64(i)
	}
	var runs []run
	var changed int64
	next := int64(-1) // unit of OLD that would continue the run
	for _, h := range neu {
		if next >= 0 && next < int64(len(old)) && old[next] == h {
			runs[len(runs)-1].copied++
			next++
			continue
		}
		at, ok := first[h]
		if !ok {
			changed++
			next = -1
			continue
		}
		runs = append(runs, run{changed: changed, copied: 1, old: at})
		changed, next = 0, at+1
	}
	return runs
}

// counter reports progress of one stage.
type counter struct {
	mu    *sync.Mutex
	f     func(stage string, done, total int64)
	stage string
	total int64
	done  int64
}

func (c *counter) add(n int64) {
	if c.f == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += n
	c.f(c.stage, c.done, c.total)
}
