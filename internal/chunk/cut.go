package chunk

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// The numbers of the cutting rules, see FORMAT.md. Changing one makes all chunks of all images new.
const (
	// MinCut is the least length in bytes at which a run of blocks is cut because of its content.
	MinCut = 32 << 10
	// AverageCut is how many bytes beyond MinCut a run gets on average.
	AverageCut = 96 << 10
	// FixedSize is the size of the chunks of files that are no squashfs.
	FixedSize = 256 << 10
)

// Progress tells how many of total bytes have been read. It is called from the goroutine that cuts. nil is allowed.
type Progress func(done, total int64)

// CutSquashfs cuts the squashfs image of size bytes in r into runs of whole blocks and gives all chunks in file order; together they
// are the whole file, padding included. It reads the file once, from start to end, and hashes on all processors. What squashfs.Open
// and FS.Blocks refuse is refused here, with their errors.
func CutSquashfs(ctx context.Context, r io.ReaderAt, size int64, progress Progress) ([]Ref, error) {
	fs, err := squashfs.Open(r, size)
	if err != nil {
		return nil, err
	}
	c := newCutter(ctx, r, size, progress)
	err = fs.Blocks(func(b squashfs.Block) error {
		return c.add(b.Size, groupOf(b.Kind))
	})
	if err == nil {
		err = c.add(size-fs.Superblock().BytesUsed, groupTables)
	}
	return c.finish(err)
}

// group keeps apart what changes with every image (head, tables) from what mostly stays. No chunk spans two groups.
type group int

const (
	groupHead group = iota
	groupData
	groupTables
)

func groupOf(k squashfs.Kind) group {
	switch k {
	case squashfs.KindSuperblock, squashfs.KindOptions:
		return groupHead
	case squashfs.KindData, squashfs.KindFragment:
		return groupData
	default:
		return groupTables
	}
}

// CutFixed cuts the first size bytes of r into chunks of FixedSize, the last may be shorter. A size of 0 gives no chunks.
func CutFixed(ctx context.Context, r io.ReaderAt, size int64, progress Progress) ([]Ref, error) {
	c := newCutter(ctx, r, size, progress)
	var err error
	for left := size; left > 0 && err == nil; left -= FixedSize {
		if err = c.read(int(min(left, FixedSize))); err == nil {
			err = c.flush()
		}
	}
	return c.finish(err)
}

// cutter joins blocks to chunks. One goroutine calls it; others hash.
type cutter struct {
	ctx      context.Context
	r        io.ReaderAt
	size     int64
	progress Progress

	hashers *errgroup.Group
	buffers sync.Pool // of *[]byte
	chunks  []*Ref    // the IDs are there when the hashers are done

	at    int64   // position in the file behind the run
	run   *[]byte // bytes of the chunk that is being made
	group group
}

func newCutter(ctx context.Context, r io.ReaderAt, size int64, progress Progress) *cutter {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	c := &cutter{ctx: ctx, r: r, size: size, progress: progress, hashers: new(errgroup.Group)}
	c.hashers.SetLimit(runtime.GOMAXPROCS(0))
	c.buffers.New = func() any { b := make([]byte, 0, MaxSize); return &b }
	c.run = c.buffers.Get().(*[]byte)
	return c
}

// add appends the next n bytes of the file, one block, to the run, and cuts before or behind it. A stretch that is longer than a
// chunk may be is taken in pieces.
func (c *cutter) add(n int64, g group) error {
	if g != c.group {
		if err := c.flush(); err != nil {
			return err
		}
		c.group = g
	}
	for ; n > 0; n -= MaxSize {
		if err := c.addBlock(int(min(n, MaxSize))); err != nil {
			return err
		}
	}
	return nil
}

func (c *cutter) addBlock(n int) error {
	if len(*c.run)+n > MaxSize {
		if err := c.flush(); err != nil {
			return err
		}
	}
	if err := c.read(n); err != nil {
		return err
	}
	if len(*c.run) >= MinCut && cutBehind((*c.run)[len(*c.run)-n:]) {
		return c.flush()
	}
	return nil
}

// cutBehind tells from a block's bytes alone whether a run ends with it: with a probability of its length / AverageCut.
func cutBehind(block []byte) bool {
	sum := crc32.Checksum(block, crc32.MakeTable(crc32.Castagnoli))
	return uint64(sum)*AverageCut < uint64(len(block))<<32
}

// read appends the next n bytes of the file to the run.
func (c *cutter) read(n int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	b := *c.run
	buf := b[len(b) : len(b)+n]
	if k, err := c.r.ReadAt(buf, c.at); k < n {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes at %d: %w", n, c.at, err)
	}
	*c.run = b[:len(b)+n]
	c.at += int64(n)
	return nil
}

// flush ends the run, if there is one, and has it hashed. It blocks while all processors hash.
func (c *cutter) flush() error {
	run := c.run
	if len(*run) == 0 {
		return nil
	}
	ref := &Ref{Size: uint32(len(*run))}
	c.chunks = append(c.chunks, ref)
	c.run = c.buffers.Get().(*[]byte)
	c.hashers.Go(func() error {
		ref.ID = Sum(*run)
		*run = (*run)[:0]
		c.buffers.Put(run)
		return nil
	})
	c.progress(c.at, c.size)
	return nil
}

// finish waits for the hashers; err is what went wrong before, or nil.
func (c *cutter) finish(err error) ([]Ref, error) {
	if err == nil {
		err = c.flush()
	}
	if waitErr := c.hashers.Wait(); err == nil {
		err = waitErr
	}
	if err != nil {
		return nil, err
	}
	refs := make([]Ref, len(c.chunks))
	for i, r := range c.chunks {
		refs[i] = *r
	}
	return refs, nil
}
