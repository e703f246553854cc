package delta

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// treeFan is the number of hashes in a block of the tree.
const treeFan = verity.BlockSize / sha256.Size

// proof holds what proves single pieces of NEW's disk.
type proof struct {
	level1 [][32]byte
	pieces map[int64][32]byte // of pieces with bytes of changed blocks
}

func pieceCount(size int64) int64 {
	return (int64(verity.PaddedSize(uint64(size))) + PieceBytes - 1) / PieceBytes
}

// level1Count is the number of level 1 blocks of a disk; a single piece has none.
func level1Count(size int64) int64 {
	n := pieceCount(size)
	if n <= 1 {
		return 0
	}
	return (n + treeFan - 1) / treeFan
}

// newProof takes the hashes of the dirty pieces, in ascending order, from those of all pieces.
func newProof(all [][32]byte, dirty []int64) proof {
	p := proof{pieces: make(map[int64][32]byte, len(dirty))}
	for _, i := range dirty {
		p.pieces[i] = all[i]
	}
	if len(all) > 1 {
		p.level1 = foldHashes(all)
	}
	return p
}

// foldHashes gives the hashes of the tree blocks that the hashes of the level below fill.
func foldHashes(below [][32]byte) [][32]byte {
	var out [][32]byte
	var block [verity.BlockSize]byte
	for len(below) > 0 {
		n := min(treeFan, len(below))
		clear(block[:])
		for i, h := range below[:n] {
			copy(block[i*sha256.Size:], h[:])
		}
		out = append(out, sha256.Sum256(block[:]))
		below = below[n:]
	}
	return out
}

// check compares the proof with the digest that it leads to.
func (p *proof) check(id Identity) error {
	h := p.level1
	if len(h) == 0 {
		sum, ok := p.pieces[0]
		if ok && id.Size > verity.BlockSize && sum != id.Digest {
			return fmt.Errorf("proof does not lead to digest %v: %w", id.Digest, ErrMismatch)
		}
		return nil
	}
	for len(h) > 1 {
		h = foldHashes(h)
	}
	if h[0] != id.Digest {
		return fmt.Errorf("proof does not lead to digest %v: %w", id.Digest, ErrMismatch)
	}
	return nil
}

func (p *proof) parse(r *fields, id Identity) {
	p.level1 = splitHashes(r.Fixed("level 1 hashes", int(level1Count(id.Size))*sha256.Size))
	pieces := uint64(pieceCount(id.Size))
	n := r.Int("number of piece ranges", int(pieces))
	skips, counts := r.ints(n), r.ints(n)
	if r.Err() != nil {
		return
	}
	p.pieces = make(map[int64][32]byte)
	var at uint64
	for i := range skips {
		if skips[i] > pieces || counts[i] > pieces || at+skips[i]+counts[i] > pieces {
			r.Fail(fmt.Errorf("piece range %d of %d", i, n))
			return
		}
		at += skips[i]
		for _, h := range splitHashes(r.Fixed("piece hashes", int(counts[i])*sha256.Size)) {
			p.pieces[int64(at)] = h
			at++
		}
	}
}

func splitHashes(b []byte) [][32]byte {
	var out [][32]byte
	for ; len(b) > 0; b = b[sha256.Size:] {
		out = append(out, [32]byte(b))
	}
	return out
}

func (p *proof) append(b []byte) []byte {
	for _, h := range p.level1 {
		b = append(b, h[:]...)
	}
	order := make([]int64, 0, len(p.pieces))
	for i := range p.pieces {
		order = append(order, i)
	}
	slices.Sort(order)
	var skips, counts []uint64
	end := int64(0)
	for k, i := range order {
		if k > 0 && i == end {
			counts[len(counts)-1]++
		} else {
			skips, counts = append(skips, uint64(i-end)), append(counts, 1)
		}
		end = i + 1
	}
	b = binary.AppendUvarint(b, uint64(len(skips)))
	b = packInts(b, skips)
	b = packInts(b, counts)
	for _, i := range order {
		h := p.pieces[i]
		b = append(b, h[:]...)
	}
	return b
}

// dirtyPieces lists the pieces that hold a byte of a changed unit.
func dirtyPieces(m *model, changed []int32) []int64 {
	var out []int64
	for _, u := range changed {
		un := &m.units[u]
		for i := un.off / PieceBytes; i <= (un.off+un.stored-1)/PieceBytes; i++ {
			if len(out) == 0 || out[len(out)-1] < i {
				out = append(out, i)
			}
		}
	}
	return out
}
