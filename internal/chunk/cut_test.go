package chunk_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// image makes a squashfs whose only file has the given blocks, stored raw. Its tables are just valid.
func image(blockSize uint32, blocks [][]byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, squashfs.SuperblockSize)
	var list []byte
	size := uint64(0)
	for _, data := range blocks {
		b = append(b, data...)
		list = le.AppendUint32(list, uint32(len(data))|1<<24)
		size += uint64(blockSize)
	}
	table := func(body []byte) int { // stores raw metadata blocks and gives the position of the first
		at := len(b)
		for part := range slices.Chunk(body, 8192) {
			b = append(le.AppendUint16(b, uint16(len(part))|1<<15), part...)
		}
		return at
	}
	inode := func(typ uint16, number uint32) []byte {
		ino := make([]byte, 16)
		le.PutUint16(ino, typ)
		le.PutUint32(ino[12:], number)
		return ino
	}
	inodes := append(inode(1, 1), make([]byte, 16)...) // the root directory, empty
	le.PutUint16(inodes[24:], 3)
	file := inode(9, 2)
	file = le.AppendUint64(file, squashfs.SuperblockSize)
	file = le.AppendUint64(file, size)
	file = append(file, make([]byte, 8)...)
	for _, v := range []uint32{1, ^uint32(0), 0, ^uint32(0)} {
		file = le.AppendUint32(file, v)
	}
	inodeTable := table(slices.Concat(inodes, file, list))
	dirTable := table([]byte{0})
	id := table(make([]byte, 4))
	idTable := len(b)
	b = le.AppendUint64(b, uint64(id))

	le.PutUint32(b, 0x73717368)
	le.PutUint32(b[4:], 2)
	le.PutUint32(b[12:], blockSize)
	le.PutUint16(b[20:], 6)
	le.PutUint16(b[22:], uint16(bits(blockSize)))
	le.PutUint16(b[26:], 1)
	le.PutUint16(b[28:], 4)
	for off, v := range map[int]int{40: len(b), 48: idTable, 56: -1, 64: inodeTable, 72: dirTable, 80: -1, 88: -1} {
		le.PutUint64(b[off:], uint64(v))
	}
	for len(b)%4096 != 0 {
		b = append(b, 0)
	}
	return b
}

func bits(v uint32) int {
	n := 0
	for ; v > 1; v >>= 1 {
		n++
	}
	return n
}

// randomBlocks gives n blocks of 1 to most bytes.
func randomBlocks(seed uint64, n, most int) [][]byte {
	rnd := rand.New(rand.NewPCG(seed, 0))
	blocks := make([][]byte, n)
	for i := range blocks {
		blocks[i] = make([]byte, 1+rnd.IntN(most))
		for j := range blocks[i] {
			blocks[i][j] = byte(rnd.Uint32())
		}
	}
	return blocks
}

func cut(t *testing.T, b []byte) []chunk.Ref {
	t.Helper()
	refs, err := chunk.CutSquashfs(t.Context(), bytes.NewReader(b), int64(len(b)), nil)
	if err != nil {
		t.Fatal(err)
	}
	covers(t, b, refs)
	return refs
}

// covers checks that the chunks are the whole of b.
func covers(t *testing.T, b []byte, refs []chunk.Ref) {
	t.Helper()
	if got := chunk.TotalSize(refs); got != int64(len(b)) {
		t.Fatalf("chunks have %d of %d bytes", got, len(b))
	}
	rest := b
	for i, r := range refs {
		if r.Size == 0 || r.Size > chunk.MaxSize {
			t.Fatalf("chunk %d has %d bytes", i, r.Size)
		}
		if err := chunk.Verify(r.ID, rest[:r.Size]); err != nil {
			t.Fatalf("chunk %d: %v", i, err)
		}
		rest = rest[r.Size:]
	}
}

func TestCutCoversTestdata(t *testing.T) {
	t.Parallel()
	images, err := filepath.Glob("../squashfs/testdata/*.squashfs")
	if err != nil || len(images) < 6 {
		t.Fatalf("%v %v", images, err)
	}
	for _, path := range images {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		refs := cut(t, b)
		if !cmp.Equal(refs, cut(t, b)) {
			t.Errorf("%s: cut differently the second time", path)
		}
		padded := append(slices.Clone(b), make([]byte, 3<<20)...)
		cut(t, padded)
	}
}

func TestCutsAtBlockBoundariesOnly(t *testing.T) {
	t.Parallel()
	for _, most := range []int{4 << 10, 64 << 10, 128 << 10} {
		blocks := randomBlocks(uint64(most), 24<<20/most, most)
		b := image(128<<10, blocks)
		ends := map[int]bool{}
		at := squashfs.SuperblockSize
		for _, data := range blocks {
			at += len(data)
			ends[at] = true
		}
		at = 0
		data := 0
		for _, r := range cut(t, b) {
			at += int(r.Size)
			if len(ends) > 0 && at > squashfs.SuperblockSize && at <= slices.Max(keys(ends)) {
				data++
				if !ends[at] {
					t.Errorf("a chunk ends at %d, inside of a block", at)
				}
			}
		}
		if average := 12 << 20 / data; average < 96<<10 || average > 192<<10 {
			t.Errorf("blocks up to %d: chunks have %d bytes on average", most, average)
		}
	}
}

func keys(m map[int]bool) []int {
	var all []int
	for k := range m {
		all = append(all, k)
	}
	return all
}

func TestOneMebibyteBlocks(t *testing.T) {
	t.Parallel()
	blocks := make([][]byte, 3)
	for i := range blocks {
		blocks[i] = bytes.Repeat([]byte{byte(i)}, 1<<20)
	}
	refs := cut(t, image(1<<20, blocks))
	var sizes []uint32
	for _, r := range refs {
		sizes = append(sizes, r.Size)
	}
	if diff := cmp.Diff([]uint32{96, 1 << 20, 1 << 20, 1 << 20}, sizes[:4]); diff != "" {
		t.Errorf("sizes (-want +got):\n%s", diff)
	}
}

func TestHardMaximum(t *testing.T) {
	t.Parallel()
	// The same small block over and over: either it ends every run or none.
	for _, fill := range []byte{0, 1, 2, 3} {
		blocks := slices.Repeat([][]byte{bytes.Repeat([]byte{fill}, 4096)}, 1000)
		cut(t, image(4096, blocks))
	}
}

// TestResync inserts, removes and changes blocks in the middle: the chunks before and behind stay the same.
func TestResync(t *testing.T) {
	t.Parallel()
	blocks := randomBlocks(7, 600, 64<<10)
	old := map[chunk.ID]bool{}
	before := cut(t, image(128<<10, blocks))
	for _, r := range before {
		old[r.ID] = true
	}
	fresh := randomBlocks(8, 1, 64<<10)[0]
	for name, changed := range map[string][][]byte{
		"insert": slices.Insert(slices.Clone(blocks), 300, fresh),
		"remove": slices.Delete(slices.Clone(blocks), 300, 301),
		"change": slices.Replace(slices.Clone(blocks), 300, 301, fresh),
	} {
		n := 0
		for _, r := range cut(t, image(128<<10, changed)) {
			if !old[r.ID] {
				n++
			}
		}
		// The head, the one metadata chunk and the touched place; the run may need a few chunks to fall into step.
		if n > 8 {
			t.Errorf("%s: %d of %d chunks are new", name, n, len(before))
		}
	}
}

func TestCutRefusesWhatIsNoSquashfs(t *testing.T) {
	t.Parallel()
	b := image(4096, randomBlocks(1, 10, 4096))
	for name, tt := range map[string]struct {
		data []byte
		want error
	}{
		"text":      {[]byte("hello"), squashfs.ErrNotSquashfs},
		"truncated": {b[:len(b)/2], squashfs.ErrTruncated},
	} {
		_, err := chunk.CutSquashfs(t.Context(), bytes.NewReader(tt.data), int64(len(tt.data)), nil)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

func TestCutStops(t *testing.T) {
	t.Parallel()
	b := image(4096, randomBlocks(2, 2000, 4096))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := chunk.CutSquashfs(ctx, bytes.NewReader(b), int64(len(b)), func(done, total int64) {
		if total != int64(len(b)) || done > total {
			t.Errorf("progress %d of %d", done, total)
		}
		cancel()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	_, err = chunk.CutFixed(t.Context(), bytes.NewReader(b), int64(len(b))+1, nil)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("file shorter than its size: %v", err)
	}
}

// TestFixed also is the worked example of FORMAT.md.
func TestFixed(t *testing.T) {
	t.Parallel()
	b := make([]byte, 600_000)
	refs, err := chunk.CutFixed(t.Context(), bytes.NewReader(b), int64(len(b)), nil)
	if err != nil {
		t.Fatal(err)
	}
	covers(t, b, refs)
	format, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	if len(refs) != 3 || refs[0] != refs[1] || refs[2].Size != 75_712 {
		t.Errorf("%v", refs)
	}
	for _, r := range refs {
		if !bytes.Contains(format, []byte(r.ID.String())) {
			t.Errorf("FORMAT.md does not have %s", r.ID)
		}
	}
	if refs, err := chunk.CutFixed(t.Context(), bytes.NewReader(nil), 0, nil); err != nil || len(refs) != 0 {
		t.Errorf("empty file: %v %v", refs, err)
	}
}

func FuzzCut(f *testing.F) {
	f.Add(image(4096, randomBlocks(3, 40, 4096)))
	f.Add(image(128<<10, randomBlocks(4, 4, 16<<10)))
	f.Fuzz(func(t *testing.T, b []byte) {
		refs, err := chunk.CutSquashfs(t.Context(), bytes.NewReader(b), int64(len(b)), nil)
		if err == nil {
			covers(t, b, refs)
		}
	})
}
