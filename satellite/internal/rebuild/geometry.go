package rebuild

import (
	"crypto/sha256"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

const (
	pieceBytes    = delta.PieceBytes
	blockBytes    = verity.BlockSize
	hashBytes     = sha256.Size
	piecesPerSpan = blockBytes / hashBytes
)

type hash = [hashBytes]byte

// geometry says where things lie on a disk: data, padding, and the levels of the tree, top level first. It is pure.
type geometry struct {
	size   int64 // of the squashfs
	data   int64 // with its padding
	end    int64 // of the disk
	pieces int
	spans  int
	levels []level // level 0 first; none if the data is a single block
}

// level is one level of the tree.
type level struct {
	off    int64 // on the disk
	blocks int64
}

func newGeometry(size int64) (geometry, error) {
	if size <= 0 || uint64(size) > verity.MaxDataBytes {
		return geometry{}, fmt.Errorf("squashfs of %d bytes", size)
	}
	g := geometry{size: size, data: int64(verity.PaddedSize(uint64(size)))}
	g.pieces = int((g.data + pieceBytes - 1) / pieceBytes)
	g.spans = (g.pieces + piecesPerSpan - 1) / piecesPerSpan
	for n := g.data / blockBytes; n > 1; {
		n = (n + piecesPerSpan - 1) / piecesPerSpan
		g.levels = append(g.levels, level{blocks: n})
	}
	g.end = g.data
	for i := len(g.levels) - 1; i >= 0; i-- {
		g.levels[i].off = g.end
		g.end += g.levels[i].blocks * blockBytes
	}
	return g, nil
}

// piece returns the part of the disk that piece p covers.
func (g *geometry) piece(p int) (off, n int64) {
	off = int64(p) * pieceBytes
	return off, min(pieceBytes, g.data-off)
}

// span returns the pieces of a span, as a half-open range.
func (g *geometry) span(s int) (first, end int) {
	return s * piecesPerSpan, min((s+1)*piecesPerSpan, g.pieces)
}

// needs tells what n bytes of the disk from off consist of: the pieces whose data or level 0 blocks are among them, and the spans whose level
// 1 blocks are, each as half-open ranges. Higher levels are there from the start.
func (g *geometry) needs(off, n int64) (data, leaves, spans [2]int) {
	end := min(off+n, g.end)
	if off < 0 || off >= end {
		return data, leaves, spans
	}
	if off < g.data {
		data = [2]int{int(off / pieceBytes), int((min(end, g.data) + pieceBytes - 1) / pieceBytes)}
	}
	if len(g.levels) > 0 {
		leaves = g.levels[0].overlap(off, end)
	}
	if len(g.levels) > 1 {
		spans = g.levels[1].overlap(off, end)
	}
	return data, leaves, spans
}

// overlap returns the blocks of a level that lie in a part of the disk.
func (l level) overlap(off, end int64) [2]int {
	off, end = max(off-l.off, 0), min(end-l.off, l.blocks*blockBytes)
	if off >= end {
		return [2]int{}
	}
	return [2]int{int(off / blockBytes), int((end + blockBytes - 1) / blockBytes)}
}

// leafBlock hashes a piece's data and returns its level 0 block and the block's hash. Data of a single block has no tree: then the hash is
// the data's.
func (g *geometry) leafBlock(data []byte, block *[blockBytes]byte) hash {
	if len(g.levels) == 0 {
		return sha256.Sum256(data)
	}
	used := 0
	for ; len(data) > 0; data = data[blockBytes:] {
		sum := sha256.Sum256(data[:blockBytes])
		used += copy(block[used:], sum[:])
	}
	clear(block[used:])
	return sha256.Sum256(block[:])
}

// pack puts hashes into a block and returns the block's hash.
func pack(hashes []hash, block *[blockBytes]byte) hash {
	used := 0
	for i := range hashes {
		used += copy(block[used:], hashes[i][:])
	}
	clear(block[used:])
	return sha256.Sum256(block[:])
}

// crown computes the levels above level 1 from the hashes of the level 1 blocks, calls write for each block, and returns the root. There
// must be as many as level 1 has blocks, and a level 1.
func (g *geometry) crown(level1 []hash, write func(off int64, block []byte) error) (root hash, err error) {
	var block [blockBytes]byte
	hashes := level1
	for _, l := range g.levels[2:] {
		above := make([]hash, 0, l.blocks)
		for i := int64(0); len(hashes) > 0; i++ {
			n := min(len(hashes), piecesPerSpan)
			above = append(above, pack(hashes[:n], &block))
			if err := write(l.off+i*blockBytes, block[:]); err != nil {
				return root, err
			}
			hashes = hashes[n:]
		}
		hashes = above
	}
	return hashes[0], nil
}
