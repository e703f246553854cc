package rebuild

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
)

// desk is a worker's memory.
type desk struct {
	data  [pieceBytes]byte
	block [blockBytes]byte
	wire  []byte // of a group
}

// proveSpan makes all of a span that needs no group, learns the hashes of its clean pieces by it, and checks all against the index.
func (r *Rebuild) proveSpan(s int, d *desk) error {
	first, end := r.geo.span(s)
	hashes := make([]hash, end-first)
	for p := first; p < end; p++ {
		if r.board.dirty[p] {
			hashes[p-first], _ = r.expected(p)
		}
	}
	kept, err := r.keepSpan(s, hashes, d)
	if err != nil {
		return err
	}
	for p := first; p < end; p++ {
		switch {
		case r.board.dirty[p] && !r.kept[p]:
			err = r.copyParts(p, d)
		case !r.board.dirty[p] && !kept:
			hashes[p-first], err = r.copyPiece(p, d)
		}
		if err != nil {
			return err
		}
	}
	if err := r.closeSpan(s, hashes, d); err != nil {
		return err
	}
	return r.spanDone(s, kept, d)
}

// keepSpan looks whether the clean pieces of a span are right in the file already: if so, their hashes make the right level 1 block.
func (r *Rebuild) keepSpan(s int, hashes []hash, d *desk) (kept bool, err error) {
	first, end := r.geo.span(s)
	if !r.resumed || r.hole(int64(first)*pieceBytes, int64(end)*pieceBytes) {
		return false, nil
	}
	for p := first; p < end; p++ {
		if r.board.dirty[p] {
			continue
		}
		if hashes[p-first], err = r.readPiece(p, d); err != nil {
			return false, nil //nolint:nilerr // what can't be read is written anew
		}
		if err := r.writeLeaf(p, d); err != nil {
			return false, err
		}
	}
	return r.spanRight(s, hashes, d), nil
}

// hole tells whether the file surely has no data in a range.
func (r *Rebuild) hole(off, end int64) bool {
	f := fileOf(r.cfg.Disk)
	if f == nil {
		return false
	}
	data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	return errors.Is(err, unix.ENXIO) || err == nil && data >= end
}

// spanRight packs the hashes of a span's pieces into d.block and tells whether that is the block that the index names.
func (r *Rebuild) spanRight(s int, hashes []hash, d *desk) bool {
	if len(r.geo.levels) < 2 {
		return hashes[0] == r.cfg.Digest
	}
	return pack(hashes, &d.block) == r.level1[s]
}

// closeSpan checks a span and writes its level 1 block.
func (r *Rebuild) closeSpan(s int, hashes []hash, d *desk) error {
	if !r.spanRight(s, hashes, d) {
		return fmt.Errorf("%w: the tree over the 64 MiB at %d differs", ErrWrong, int64(s)*piecesPerSpan*pieceBytes)
	}
	if len(r.geo.levels) < 2 {
		return nil
	}
	return r.write(r.geo.levels[1].off+int64(s)*blockBytes, d.block[:])
}

func (r *Rebuild) spanDone(s int, kept bool, d *desk) error {
	r.mu.Lock()
	made, ready := r.board.proved(s)
	release(r.waiters.spans, s)
	for _, p := range made {
		release(r.waiters.pieces, p)
	}
	r.settleLocked()
	r.mu.Unlock()
	origin := "copied"
	if kept {
		origin = "kept"
	}
	r.cfg.Metrics.piece(origin, len(made))
	return r.checkPieces(ready, d)
}

// settleLocked wakes workers and lanes after progress, the last time when all is done.
func (r *Rebuild) settleLocked() {
	if r.board.complete() {
		r.whole.Store(true)
	}
	r.cond.Broadcast()
}

// copyPiece makes a clean piece and its level 0 block.
func (r *Rebuild) copyPiece(p int, d *desk) (hash, error) {
	off, n := r.geo.piece(p)
	data := d.data[:n]
	real := min(n, r.geo.size-off)
	clear(data[real:]) // padding
	if err := r.local(off, real, func(at int64, read func([]byte) error, n int64) error {
		return read(data[at-off:][:n])
	}); err != nil {
		return hash{}, err
	}
	sum := r.geo.leafBlock(data, &d.block)
	if err := r.write(off, data); err != nil {
		return hash{}, err
	}
	return sum, r.writeLeaf(p, d)
}

// copyParts writes those bytes of a dirty piece that no group brings, and no others: a group may have been written already.
func (r *Rebuild) copyParts(p int, d *desk) error {
	off, n := r.geo.piece(p)
	return r.local(off, min(n, r.geo.size-off), func(at int64, read func([]byte) error, n int64) error {
		if err := read(d.data[:n]); err != nil {
			return err
		}
		return r.write(at, d.data[:n])
	})
}

// local calls do for each part of a range of the squashfs that comes from the base or the index; read fills n bytes with it.
func (r *Rebuild) local(off, n int64, do func(at int64, read func([]byte) error, n int64) error) error {
	for _, reg := range r.board.at(off, n) {
		from, end := max(reg.Off, off), min(reg.Off+reg.Len, off+n)
		var read func([]byte) error
		switch reg.Kind {
		case delta.RegionGroup:
			continue
		case delta.RegionBytes:
			held := r.cfg.Bytes(reg)
			if int64(len(held)) != reg.Len {
				return fmt.Errorf("%w: %d bytes held for %d at %d", ErrWrong, len(held), reg.Len, reg.Off)
			}
			read = func(p []byte) error { copy(p, held[from-reg.Off:]); return nil }
		default:
			read = func(p []byte) error { return r.readBase(p, reg.OldOff+from-reg.Off) }
		}
		if err := do(from, read, end-from); err != nil {
			return err
		}
	}
	return nil
}

func (r *Rebuild) readBase(p []byte, off int64) error {
	n, err := r.cfg.Base.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %d bytes at %d: %w", ErrBase, len(p), off, err)
}

// readPiece reads a piece from the file and makes its level 0 block in d.
func (r *Rebuild) readPiece(p int, d *desk) (hash, error) {
	off, n := r.geo.piece(p)
	if k, err := r.cfg.Disk.ReadAt(d.data[:n], off); int64(k) < n {
		return hash{}, fmt.Errorf("read back %d bytes at %d of the disk: %w", n, off, err)
	}
	return r.geo.leafBlock(d.data[:n], &d.block), nil
}

func (r *Rebuild) writeLeaf(p int, d *desk) error {
	if len(r.geo.levels) == 0 {
		return nil
	}
	return r.write(r.geo.levels[0].off+int64(p)*blockBytes, d.block[:])
}

// checkPiece proves a dirty piece that lacks nothing, writes its level 0 block and lets readers have it. It is for checkPieces.
func (r *Rebuild) checkPiece(p int, d *desk) error {
	sum, err := r.readPiece(p, d)
	if err == nil {
		if want, _ := r.expected(p); sum != want {
			err = fmt.Errorf("%w: piece %d differs", ErrWrong, p)
		}
	}
	if err == nil {
		err = r.writeLeaf(p, d)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		return err
	}
	r.board.finish(p)
	release(r.waiters.pieces, p)
	origin := "decoded"
	if r.kept[p] {
		origin = "kept"
	}
	r.cfg.Metrics.piece(origin, 1)
	if r.board.complete() {
		r.settleLocked()
	}
	return nil
}

// checkPieces checks the pieces that board.ready handed out.
func (r *Rebuild) checkPieces(pieces []int, d *desk) error {
	for i, p := range pieces {
		if err := r.checkPiece(p, d); err != nil {
			r.putBack(func(b *board) {
				for _, p := range pieces[i:] {
					b.pieces[p] = pending
				}
			})
			return err
		}
	}
	return nil
}
