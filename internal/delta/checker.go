package delta

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"

	"golang.org/x/sync/errgroup"

	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// checker hashes NEW as it is written and compares it with what the index promises. It is for one goroutine.
type checker struct {
	x      *Index
	sha    hash.Hash
	free   chan []byte
	cur    []byte // of the piece that is being filled
	piece  int64
	hashes [][32]byte
	work   errgroup.Group
}

func newChecker(x *Index, parallel int) *checker {
	c := &checker{x: x, sha: sha256.New(), free: make(chan []byte, parallel+1), hashes: make([][32]byte, x.Pieces())}
	for range cap(c.free) {
		c.free <- make([]byte, 0, PieceBytes)
	}
	return c
}

// add takes the next bytes of the image.
func (c *checker) add(ctx context.Context, b []byte) error {
	c.sha.Write(b)
	for len(b) > 0 {
		if c.cur == nil {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case c.cur = <-c.free:
			}
		}
		n := min(len(b), PieceBytes-len(c.cur))
		c.cur = append(c.cur, b[:n]...)
		b = b[n:]
		if len(c.cur) == PieceBytes {
			c.flush()
		}
	}
	return nil
}

// flush hashes the current piece in the background.
func (c *checker) flush() {
	b, i := c.cur, c.piece
	c.cur = nil
	c.piece++
	if i >= int64(len(c.hashes)) {
		c.free <- b[:0]
		return
	}
	c.work.Go(func() error {
		defer func() { c.free <- b[:0] }()
		c.hashes[i] = hashPiece(b, len(c.hashes) == 1)
		if want, ok := c.x.Piece(i); ok && want != c.hashes[i] {
			return fmt.Errorf("piece %d, bytes from %d on: %w", i, i*PieceBytes, ErrMismatch)
		}
		return nil
	})
}

// hashPiece gives the hash of the level 0 block over data, which is padded with zeros to whole blocks. The tree of a single block
// has no level 0: only says that there is no other piece.
func hashPiece(b []byte, only bool) [32]byte {
	for len(b)%verity.BlockSize != 0 {
		b = append(b, 0)
	}
	if only && len(b) == verity.BlockSize {
		return sha256.Sum256(b)
	}
	var block [verity.BlockSize]byte
	for i := 0; len(b) > 0; i++ {
		sum := sha256.Sum256(b[:verity.BlockSize])
		copy(block[i*sha256.Size:], sum[:])
		b = b[verity.BlockSize:]
	}
	return sha256.Sum256(block[:])
}

// finish compares all that was added with the index.
func (c *checker) finish() error {
	if len(c.cur) > 0 {
		c.flush()
	}
	if err := c.work.Wait(); err != nil {
		return err
	}
	if [32]byte(c.sha.Sum(nil)) != c.x.New.SHA256 {
		return fmt.Errorf("SHA-256 of the new image: %w", ErrMismatch)
	}
	h := c.hashes
	for len(h) > 1 {
		h = foldHashes(h)
	}
	if len(h) != 1 || h[0] != c.x.New.Digest {
		return fmt.Errorf("digest of the new image: %w", ErrMismatch)
	}
	return nil
}
