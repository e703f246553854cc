// Package verity computes dm-verity hash trees: hash format version 1 (the kernel's "1"), SHA-256, 4096-byte data and hash
// blocks, no salt, no superblock (Linux, Documentation/admin-guide/device-mapper/verity.rst). The tree is laid out as
// veritysetup and the kernel expect it: top level first, level 0 (the hashes of the data blocks) last, every level starting
// at a block of its own. The root digest is the hash of the top block; it is not part of the tree.
//
// The tree is a pure function of the data, so nobody needs to transmit it. The package does no device-mapper work; any part
// may import it.
package verity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// BlockSize is the size in bytes of a data block and of a hash block.
const BlockSize = 4096

const (
	digestSize     = sha256.Size
	hashesPerBlock = BlockSize / digestSize
	// spanSize is how much data one level 0 hash block covers: the unit of parallel work.
	spanSize = hashesPerBlock * BlockSize
)

// MaxDataBytes is the largest data size that is accepted (64 TiB): far more than an image, small enough that no sum overflows.
const MaxDataBytes = 1 << 46

// ErrSize is returned for a data size that is zero, no multiple of BlockSize or larger than MaxDataBytes.
var ErrSize = errors.New("data size is not a positive multiple of 4096 bytes")

// Digest is the root hash of a tree. Its text form is 64 lower-case hexadecimal digits, as veritysetup prints it.
type Digest [digestSize]byte

// String returns the digest as 64 lower-case hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText implements encoding.TextMarshaler with the form of String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; it accepts what ParseDigest accepts.
func (d *Digest) UnmarshalText(text []byte) error {
	parsed, err := ParseDigest(string(text))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}

// ParseDigest reads the form that String writes. Upper-case digits are refused: a digest is part of names, and a name must
// have one spelling.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*digestSize {
		return d, fmt.Errorf("verity digest has %d characters, want %d", len(s), 2*digestSize)
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return d, fmt.Errorf("verity digest has %q at position %d, want a lower-case hexadecimal digit", c, i)
		}
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, fmt.Errorf("verity digest: %w", err)
	}
	return d, nil
}

// PaddedSize rounds size up to a multiple of BlockSize. Sizes beyond MaxDataBytes are for the caller to refuse.
func PaddedSize(size uint64) uint64 { return (size + BlockSize - 1) &^ (BlockSize - 1) }

// TreeSize returns the size in bytes of the tree for dataBytes of data, a multiple of BlockSize (other sizes count as padded).
// Data of one block needs no tree: its hash is the root digest.
func TreeSize(dataBytes uint64) uint64 {
	var blocks uint64
	for _, n := range levels(PaddedSize(dataBytes) / BlockSize) {
		blocks += n
	}
	return blocks * BlockSize
}

// levels returns the number of hash blocks of each level, level 0 first. The last level, if there is any, has one block.
func levels(dataBlocks uint64) []uint64 {
	var sizes []uint64
	for n := dataBlocks; n > 1; {
		n = (n + hashesPerBlock - 1) / hashesPerBlock
		sizes = append(sizes, n)
	}
	return sizes
}

// Compute reads dataBytes from r and returns the root digest. The tree, TreeSize(dataBytes) bytes, is written to w from offset
// 0; a nil w computes the digest only. Both r and w are used from several goroutines at once, as io.ReaderAt and io.WriterAt
// allow; writes never overlap. parallel is the number of goroutines; zero or less means one per processor. Memory is 512 KiB
// per goroutine plus 64 bytes per MiB of data. It blocks until all is read, an error occurs or ctx ends, and has ended its
// goroutines when it returns. After an error w holds an incomplete tree.
func Compute(ctx context.Context, r io.ReaderAt, dataBytes uint64, w io.WriterAt, parallel int) (Digest, error) {
	if dataBytes == 0 || dataBytes%BlockSize != 0 || dataBytes > MaxDataBytes {
		return Digest{}, fmt.Errorf("verity tree of %d bytes: %w", dataBytes, ErrSize)
	}
	if parallel <= 0 {
		parallel = runtime.GOMAXPROCS(0)
	}
	b := &builder{r: r, w: w, dataBytes: dataBytes}
	b.spans = (dataBytes + spanSize - 1) / spanSize
	if b.spans < uint64(parallel) {
		parallel = int(b.spans)
	}
	b.layout()
	return b.run(ctx, parallel)
}

// builder holds one computation. hashes has one digest per level 0 hash block; goroutines write disjoint elements.
type builder struct {
	r         io.ReaderAt
	w         io.WriterAt
	dataBytes uint64
	spans     uint64
	offsets   []int64 // of each level in w, level 0 first
	hashes    []Digest
	next      atomic.Uint64
}

// layout finds where each level lies: the top level first (verity_hash_at_level in the kernel's dm-verity).
func (b *builder) layout() {
	sizes := levels(b.dataBytes / BlockSize)
	b.offsets = make([]int64, len(sizes))
	var off int64
	for i := len(sizes) - 1; i >= 0; i-- {
		b.offsets[i] = off
		off += int64(sizes[i]) * BlockSize
	}
	b.hashes = make([]Digest, b.spans)
}

func (b *builder) run(ctx context.Context, parallel int) (Digest, error) {
	g, ctx := errgroup.WithContext(ctx)
	for range parallel {
		g.Go(func() error { return b.work(ctx) })
	}
	if err := g.Wait(); err != nil {
		return Digest{}, err
	}
	return b.upper()
}

// work hashes one span after the other until none is left.
func (b *builder) work(ctx context.Context) error {
	data := make([]byte, min(spanSize, b.dataBytes))
	var block [BlockSize]byte
	for {
		span := b.next.Add(1) - 1
		if span >= b.spans {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		off := span * spanSize
		data = data[:min(spanSize, b.dataBytes-off)]
		if err := readFull(b.r, data, int64(off)); err != nil {
			return fmt.Errorf("read %d bytes at %d: %w", len(data), off, err)
		}
		if err := b.hashSpan(span, data, &block); err != nil {
			return err
		}
	}
}

// hashSpan makes and writes the level 0 hash block of a span. A tree without levels has one block of data whose hash is kept.
func (b *builder) hashSpan(span uint64, data []byte, block *[BlockSize]byte) error {
	if len(b.offsets) == 0 {
		b.hashes[0] = sha256.Sum256(data)
		return nil
	}
	used := 0
	for len(data) > 0 {
		sum := sha256.Sum256(data[:BlockSize])
		used += copy(block[used:], sum[:])
		data = data[BlockSize:]
	}
	clear(block[used:])
	b.hashes[span] = sha256.Sum256(block[:])
	return b.write(block[:], b.offsets[0]+int64(span)*BlockSize)
}

// upper makes the levels above level 0 from the bottom up; each digest in hashes stands for one block of the level below.
func (b *builder) upper() (Digest, error) {
	hashes := b.hashes
	var block [BlockSize]byte
	for level := 1; level < len(b.offsets); level++ {
		off := b.offsets[level]
		above := 0
		for len(hashes) > 0 {
			n := min(len(hashes), hashesPerBlock)
			used := 0
			for _, h := range hashes[:n] {
				used += copy(block[used:], h[:])
			}
			clear(block[used:])
			// The element written was read before: above never overtakes the position in hashes.
			b.hashes[above] = sha256.Sum256(block[:])
			if err := b.write(block[:], off); err != nil {
				return Digest{}, err
			}
			above++
			off += BlockSize
			hashes = hashes[n:]
		}
		hashes = b.hashes[:above]
	}
	return hashes[0], nil
}

func (b *builder) write(block []byte, off int64) error {
	if b.w == nil {
		return nil
	}
	if _, err := b.w.WriteAt(block, off); err != nil {
		return fmt.Errorf("write hash block at %d: %w", off, err)
	}
	return nil
}

// readFull reads len(p) bytes. io.ReaderAt may return io.EOF with a full read at the end of the data.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
