// Package imageram copies an image from its network block device into memory, so that a client can go on without any satellite (IMAGE_TO_RAM).
//
// The initrd uses it between the applet initrd-bottom, whose IMAGE_TO_RAM asks for it, and the applet init:
//
//  1. Copy, from the NBD device (/dev/nbd0; data and hash tree, BootConfig.SizeBytes) into a file on a tmpfs of its own. ErrMemory: not enough; the boot goes on
//     over the network.
//  2. Attach makes the file a read-only loop device.
//  3. dmverity.Replace has the verity device of the root read from there. Mounts stay, each block is checked as before, and nothing reads from NBD any more.
//  4. The keeper is ended and the NBD device disconnected.
//
// The tmpfs must be mounted where it moves to the new root (below /run). Nobody else may write to the file.
package imageram

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// ErrMemory says that the image leaves too little memory to work with.
var ErrMemory = errors.New("the image does not fit into memory")

const (
	// reserveBytes must be left for everything else.
	reserveBytes = 384 << 20
	chunkBytes   = 1 << 20
	// readers keep that many requests under way: one alone waits for the network most of the time.
	readers = 8
)

// Fits tells whether an image of that size may be copied when that much memory is available; both in bytes. The error wraps ErrMemory and gives the figures.
func Fits(sizeBytes, availableBytes uint64) error {
	if sizeBytes+reserveBytes > availableBytes {
		return fmt.Errorf("%w: it has %d MiB, %d MiB are available and %d MiB must be left", ErrMemory, sizeBytes>>20, availableBytes>>20, uint64(reserveBytes)>>20)
	}
	return nil
}

// Copy writes size bytes of source to file, a new one. Progress, if not nil, is called with the bytes that are there, from several goroutines at a time but not
// at once. What a failure leaves is removed.
func Copy(ctx context.Context, source io.ReaderAt, size int64, file string, progress func(done int64)) (err error) {
	if size <= 0 {
		return fmt.Errorf("copy the image: a size of %d bytes", size)
	}
	out, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("copy the image: %w", err)
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			err = fmt.Errorf("copy the image: %w", errors.Join(err, os.Remove(file)))
		}
	}()
	if err := out.Truncate(size); err != nil {
		return err
	}
	var next atomic.Int64
	var mu sync.Mutex // progress and done
	var done int64
	group, ctx := errgroup.WithContext(ctx)
	for range readers {
		group.Go(func() error {
			buf := make([]byte, chunkBytes)
			for {
				at := next.Add(chunkBytes) - chunkBytes
				if at >= size {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				piece := buf[:min(chunkBytes, size-at)]
				// A reader may give the last byte together with io.EOF.
				if n, err := source.ReadAt(piece, at); n < len(piece) {
					return fmt.Errorf("read at %d: %w", at, err)
				}
				if _, err := out.WriteAt(piece, at); err != nil {
					return err
				}
				mu.Lock()
				if done += int64(len(piece)); progress != nil {
					progress(done)
				}
				mu.Unlock()
			}
		})
	}
	return group.Wait()
}
