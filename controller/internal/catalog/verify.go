package catalog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunkstore"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// verify reads an artifact's bytes back: each chunk against its ID, the whole against its SHA-256 and, if it is the root file system of an
// image, the disk that satellites make of it against the digest.
func (c *Catalog) verify(ctx context.Context, m *manifest.Manifest, a *manifest.Artifact) error {
	h := sha256.New()
	buf := make([]byte, 0, chunk.MaxSize)
	for _, ref := range a.Chunks {
		data, err := c.piece(ctx, ref, buf)
		if err != nil {
			return fmt.Errorf("read artifact %s back: %w", a.Name, err)
		}
		h.Write(data)
	}
	if [32]byte(h.Sum(nil)) != a.SHA256 {
		return fleet.Errorf(fleet.ErrInvalid, "artifact %s: its chunks do not make the file that the draft describes (SHA-256)", a.Name)
	}
	if m.Kind != manifest.Image || a.Name != manifest.Squashfs {
		return nil
	}
	r := newReader(ctx, c, a, readers+2)
	digest, err := verity.Compute(ctx, verity.Padded(r, int64(a.Size)), verity.PaddedSize(a.Size), nil, readers)
	if errors.Is(err, verity.ErrSize) {
		return fleet.Errorf(fleet.ErrInvalid, "artifact %s: %d bytes cannot be a disk", a.Name, a.Size)
	}
	if err != nil {
		return fmt.Errorf("read artifact %s back: %w", a.Name, err)
	}
	if [32]byte(digest) != m.Digest {
		return fleet.Errorf(fleet.ErrInvalid, "artifact %s: the disk made of it has the digest %s, the draft says %s", a.Name, digest, fleet.Hash(m.Digest))
	}
	return nil
}

// piece returns one chunk, which must be as large as the draft says.
func (c *Catalog) piece(ctx context.Context, ref chunk.Ref, buf []byte) ([]byte, error) {
	data, err := c.Chunk(ctx, ref.ID, buf)
	if errors.Is(err, chunkstore.ErrNotFound) {
		return nil, &MissingError{Count: 1, First: ref.ID}
	}
	if err != nil {
		return nil, err
	}
	if len(data) != int(ref.Size) {
		return nil, fleet.Errorf(fleet.ErrInvalid, "chunk %s has %d bytes, the draft says %d", ref.ID, len(data), ref.Size)
	}
	return data, nil
}

// readers is how many goroutines hash an image's disk.
const readers = 2

// reader is the io.ReaderAt of an artifact. It keeps the last few chunks: those who read go forward side by side, in smaller steps than a
// chunk.
type reader struct {
	ctx     context.Context // of the one Compute call that the reader is made for
	catalog *Catalog
	chunks  []chunk.Ref
	starts  []int64 // where each chunk begins in the artifact
	size    int64

	mu   sync.Mutex
	kept []keptChunk
	next int
}

type keptChunk struct {
	index int
	data  []byte
}

// newReader keeps the last keep chunks.
func newReader(ctx context.Context, c *Catalog, a *manifest.Artifact, keep int) *reader {
	r := &reader{ctx: ctx, catalog: c, chunks: a.Chunks, starts: make([]int64, len(a.Chunks)), size: int64(a.Size), kept: make([]keptChunk, keep)}
	var at int64
	for i, ref := range a.Chunks {
		r.starts[i] = at
		at += int64(ref.Size)
	}
	for i := range r.kept {
		r.kept[i].index = -1
	}
	return r
}

// Size is the artifact's size in bytes.
func (r *reader) Size() int64 { return r.size }

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("read at a negative offset")
	}
	n := 0
	for n < len(p) {
		if off >= r.size {
			return n, io.EOF
		}
		index := sort.Search(len(r.starts), func(i int) bool { return r.starts[i] > off }) - 1
		data, err := r.load(index)
		if err != nil {
			return n, err
		}
		copied := copy(p[n:], data[off-r.starts[index]:])
		n += copied
		off += int64(copied)
	}
	return n, nil
}

func (r *reader) load(index int) ([]byte, error) {
	r.mu.Lock()
	for _, k := range r.kept {
		if k.index == index {
			r.mu.Unlock()
			return k.data, nil
		}
	}
	r.mu.Unlock()
	data, err := r.catalog.piece(r.ctx, r.chunks[index], nil) // memory of its own: others may still copy from what it replaces
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept[r.next] = keptChunk{index: index, data: data}
	r.next = (r.next + 1) % len(r.kept)
	return data, nil
}
