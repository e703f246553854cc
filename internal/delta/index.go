package delta

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta/wire"
	"github.com/ltsp-fleet/ltsp-fleet/internal/mixcode"
)

// PrefixBytes is the length of the start of a delta from which IndexLength reads the index's length.
const PrefixBytes = 16

// MaxIndexBytes is the longest index that is read.
const MaxIndexBytes = 64 << 20

const (
	magic         = "LTSPdlt\x00"
	formatVersion = 2 // written; 1 has no LZMA
	oldestVersion = 1 // read
	maxGroups     = 1 << 20
	maxRuns       = 1 << 22
	maxImageBytes = 1 << 40
)

// Modes of an index. The numbers are part of the format.
const (
	modeSemantic = 0 // the images are understood: units are blocks and gaps, NEW's metadata is rebuilt from columns
	modeOpaque   = 1 // they are not: units are stretches of bytes
)

// Index is a parsed index: everything but the groups. It is read-only and safe for concurrent use.
type Index struct {
	// Old and New identify the two images.
	Old, New Identity
	// Groups are in the physical order of their first blocks in NEW.
	Groups []Group
	// IndexBytes is the index's length: the delta's first bytes. The groups follow it.
	IndexBytes int64
	// DeltaBytes is the length of the whole delta.
	DeltaBytes int64

	mode       uint64
	oldMeta    [oldMetaLen]byte
	encoder    string
	columns    []byte // coded against OLD's columns
	expansions []byte // coded against OLD's files
	runs       []run
	proof      proof
}

// oldMetaLen is how much of the hash of OLD's metadata is kept: enough to notice a wrong image, not meant to prove one.
const oldMetaLen = 8

// run is a number of changed units followed by a number of copied ones. In an opaque index the counts and positions are bytes.
type run struct {
	changed, copied int64
	old             int64 // first unit of OLD that is copied
}

// IndexLength tells how long the index is from the first PrefixBytes bytes of a delta.
func IndexLength(prefix []byte) (int64, error) {
	if len(prefix) < PrefixBytes || string(prefix[:len(magic)]) != magic {
		return 0, fmt.Errorf("no delta starts with these bytes: %w", ErrFormat)
	}
	if v := binary.LittleEndian.Uint32(prefix[8:]); v < oldestVersion || v > formatVersion {
		return 0, fmt.Errorf("format version %d: %w", v, ErrVersion)
	}
	n := int64(binary.LittleEndian.Uint32(prefix[12:]))
	if n < PrefixBytes+sha256.Size || n > MaxIndexBytes {
		return 0, fmt.Errorf("index of %d bytes: %w", n, ErrFormat)
	}
	return n, nil
}

// ReadIndex reads and parses the index of a delta.
func ReadIndex(delta Source) (*Index, error) {
	prefix := make([]byte, PrefixBytes)
	if err := readAt(delta, prefix, 0); err != nil {
		return nil, fmt.Errorf("read start of delta: %w", err)
	}
	n, err := IndexLength(prefix)
	if err != nil {
		return nil, err
	}
	if n > delta.Size() {
		return nil, fmt.Errorf("delta has %d bytes, its index alone %d: %w: %w", delta.Size(), n, ErrFormat, io.ErrUnexpectedEOF)
	}
	b := make([]byte, n)
	if err := readAt(delta, b, 0); err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	return ParseIndex(b)
}

// readAt fills p.
func readAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%d bytes at %d: %w", len(p), off, err)
}

// ParseIndex parses the index at the start of b; what follows it is not looked at. The proof is checked against New.Digest.
// Errors match ErrFormat, ErrVersion, ErrLimit or ErrMismatch.
func ParseIndex(b []byte) (*Index, error) {
	n, err := IndexLength(b)
	if err != nil {
		return nil, err
	}
	if n > int64(len(b)) {
		return nil, fmt.Errorf("index has %d bytes, %d are here: %w", n, len(b), ErrFormat)
	}
	body := b[:n-sha256.Size]
	if sum := sha256.Sum256(body); string(sum[:]) != string(b[len(body):n]) {
		return nil, fmt.Errorf("checksum of the index: %w", ErrMismatch)
	}
	x := &Index{IndexBytes: n}
	r := newFields(append([]byte(nil), body[PrefixBytes:]...), mixcode.NewCoder())
	x.parse(r)
	if r.Err() != nil {
		return nil, fmt.Errorf("index: %w: %w", r.Err(), ErrFormat)
	}
	if len(r.Rest()) != 0 {
		return nil, fmt.Errorf("index: %d bytes are left over: %w", len(r.Rest()), ErrFormat)
	}
	if err := x.proof.check(x.New); err != nil {
		return nil, err
	}
	return x, nil
}

func (x *Index) parse(r *fields) {
	x.mode = r.Uint("mode", modeOpaque)
	x.Old, x.New = readIdentity(r), readIdentity(r)
	copy(x.oldMeta[:], r.Fixed("check of the old metadata", oldMetaLen))
	x.encoder = string(r.Bytes("encoder", 256))
	x.columns = r.Bytes("columns", MaxIndexBytes)
	x.expansions = r.Bytes("expansions", MaxIndexBytes)
	x.parseRuns(r)
	x.parseGroups(r)
	if r.Err() == nil {
		x.proof.parse(r, x.New)
	}
}

func readIdentity(r *fields) Identity {
	var id Identity
	id.Size = int64(r.Uint("image size", maxImageBytes))
	copy(id.SHA256[:], r.Fixed("image hash", len(id.SHA256)))
	copy(id.Digest[:], r.Fixed("image digest", len(id.Digest)))
	if id.Size == 0 {
		r.Fail(fmt.Errorf("image size is zero"))
	}
	return id
}

func appendIdentity(b []byte, id Identity) []byte {
	b = binary.AppendUvarint(b, uint64(id.Size))
	b = append(b, id.SHA256[:]...)
	return append(b, id.Digest[:]...)
}

func (x *Index) parseRuns(r *fields) {
	n := r.Int("number of runs", maxRuns)
	changed, copied, olds := r.ints(n), r.ints(n), r.ints(n)
	if r.Err() != nil {
		return
	}
	x.runs = make([]run, n)
	var old int64
	for i := range x.runs {
		old += wire.Unzigzag(olds[i])
		if changed[i] > maxImageBytes || copied[i] > maxImageBytes || old < 0 || old > maxImageBytes {
			r.Fail(fmt.Errorf("copy run %d of %d", i, n))
			return
		}
		x.runs[i] = run{int64(changed[i]), int64(copied[i]), old}
		old += int64(copied[i])
	}
}

func appendRuns(b []byte, runs []run) []byte {
	var changed, copied, olds []uint64
	var old int64
	for _, r := range runs {
		changed, copied = append(changed, uint64(r.changed)), append(copied, uint64(r.copied))
		olds = append(olds, wire.Zigzag(r.old-old))
		old = r.old + r.copied
	}
	b = binary.AppendUvarint(b, uint64(len(runs)))
	b = packInts(b, changed)
	b = packInts(b, copied)
	return packInts(b, olds)
}

func (x *Index) parseGroups(r *fields) {
	n := r.Int("number of groups", maxGroups)
	blocks, lengths, raws, stored := r.ints(n), r.ints(n), r.ints(n), r.ints(n)
	needs := r.ints(n)
	hashes := r.Fixed("group hashes", n*sha256.Size)
	if r.Err() != nil {
		return
	}
	x.Groups = make([]Group, n)
	off := x.IndexBytes
	for i := range x.Groups {
		g := &x.Groups[i]
		if blocks[i] == 0 || blocks[i] > 1<<30 || lengths[i] > maxImageBytes || raws[i] > maxGroupRaw+maxNestedStored ||
			stored[i] > maxGroupRaw+maxNestedStored || stored[i] > uint64(x.New.Size) || needs[i] > uint64(n) {
			r.Fail(fmt.Errorf("group %d of %d", i, n))
			return
		}
		*g = Group{Offset: off, Length: int64(lengths[i]), RawBytes: int64(raws[i]), StoredBytes: int64(stored[i]), Blocks: int(blocks[i])}
		copy(g.SHA256[:], hashes[i*sha256.Size:])
		off += g.Length
		for range needs[i] {
			g.Needs = append(g.Needs, r.Int("needed group", n-1))
		}
	}
	x.DeltaBytes = off
	x.checkNeeds(r)
}

// checkNeeds refuses needs of groups that have needs themselves.
func (x *Index) checkNeeds(r *fields) {
	for i := range x.Groups {
		for _, k := range x.Groups[i].Needs {
			if r.Err() == nil && len(x.Groups[k].Needs) > 0 {
				r.Fail(fmt.Errorf("group %d needs group %d, which needs others", i, k))
			}
		}
	}
}

func appendGroups(b []byte, groups []Group) []byte {
	cols := make([][]uint64, 5)
	var hashes, needs []byte
	for i := range groups {
		g := &groups[i]
		for k, v := range []int64{int64(g.Blocks), g.Length, g.RawBytes, g.StoredBytes, int64(len(g.Needs))} {
			cols[k] = append(cols[k], uint64(v))
		}
		hashes = append(hashes, g.SHA256[:]...)
		for _, n := range g.Needs {
			needs = binary.AppendUvarint(needs, uint64(n))
		}
	}
	b = binary.AppendUvarint(b, uint64(len(groups)))
	for _, c := range cols {
		b = packInts(b, c)
	}
	return append(append(b, hashes...), needs...)
}

// encode gives the bytes of an index whose groups' lengths are set. It sets IndexBytes, DeltaBytes and the groups' offsets, and
// counts in st.
func (x *Index) encode(st *Stats) []byte {
	b := append([]byte(magic), 0, 0, 0, 0, 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	b = binary.AppendUvarint(b, x.mode)
	b = appendIdentity(b, x.Old)
	b = appendIdentity(b, x.New)
	b = append(b, x.oldMeta[:]...)
	b = wire.AppendBytes(b, []byte(x.encoder))
	section := func(size *int64, f func([]byte) []byte) {
		n := len(b)
		b = f(b)
		*size = int64(len(b) - n)
	}
	section(&st.ColumnBytes, func(b []byte) []byte { return wire.AppendBytes(b, x.columns) })
	section(&st.ExpansionBytes, func(b []byte) []byte { return wire.AppendBytes(b, x.expansions) })
	section(&st.RunBytes, func(b []byte) []byte { return appendRuns(b, x.runs) })
	section(&st.GroupTableBytes, func(b []byte) []byte { return appendGroups(b, x.Groups) })
	section(&st.ProofBytes, x.proof.append)
	x.IndexBytes = int64(len(b)) + sha256.Size
	binary.LittleEndian.PutUint32(b[12:], uint32(x.IndexBytes))
	sum := sha256.Sum256(b)
	off := x.IndexBytes
	for i := range x.Groups {
		x.Groups[i].Offset = off
		off += x.Groups[i].Length
	}
	x.DeltaBytes = off
	return append(b, sum[:]...)
}

// Piece gives the hash that the level 0 block of piece i of NEW's disk has, if the index carries it: pieces with bytes of
// changed blocks. The others follow from OLD and the index.
func (x *Index) Piece(i int64) (hash [32]byte, ok bool) {
	hash, ok = x.proof.pieces[i]
	return hash, ok
}

// Level1 gives the hashes of the level 1 blocks of NEW's tree, each over 128 pieces. They were checked against New.Digest.
// Empty if the disk has at most one piece.
func (x *Index) Level1() [][32]byte { return x.proof.level1 }

// Pieces is the number of pieces of NEW's disk without its tree.
func (x *Index) Pieces() int64 { return pieceCount(x.New.Size) }
