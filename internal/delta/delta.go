// Package delta turns one squashfs image into another over a thin line: from two versions, OLD and NEW, Make writes a delta;
// from OLD and the delta, Apply makes the exact bytes of NEW, and a Receiver makes any part of them on demand. FORMAT.md
// describes the bytes. The package knows files and byte slices only, no network and no policy; every part but the agent may
// import it (it links the pinned C encoders).
//
// The words: a stored block is a data or fragment block as it lies in the image; raw is its content. Stored blocks of NEW that
// OLD has too are copied; the others are changed blocks, collected into groups of 0.5 to 16 MiB raw that decode independently of
// each other: what was updated, what is new and what does not compress lie in groups of their own. A piece is 512 KiB of the final disk, what one level 0 block of the dm-verity tree covers. The disk of a version
// is its squashfs, zeros up to a multiple of 4096 bytes, then the tree; its digest is the root hash.
package delta

import (
	"errors"
	"io"
	"runtime"

	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

var (
	// ErrFormat tells that the index or a group is not what FORMAT.md describes; see the message for where.
	ErrFormat = errors.New("malformed delta")
	// ErrVersion tells that the delta was made by a later version of this format.
	ErrVersion = errors.New("delta format version is not supported")
	// ErrWrongOld tells that the image given as OLD is not the one that the delta was made from.
	ErrWrongOld = errors.New("old image is not the base of this delta")
	// ErrMismatch tells that bytes that were made differ from what the delta, its proof or the caller's digest promise.
	ErrMismatch = errors.New("reconstructed data does not match")
	// ErrLimit tells that more memory would be needed than Options.MemoryBytes or the format's limits allow.
	ErrLimit = errors.New("delta exceeds a limit")
)

// DefaultMemoryBytes is the memory that Make, Apply and a Receiver use when Options.MemoryBytes is zero.
const DefaultMemoryBytes = 512 << 20

// PieceBytes is the length of a piece: what one level 0 block of a dm-verity tree covers.
const PieceBytes = 128 * verity.BlockSize

// Source is an image or a delta: bytes at random, safe for concurrent use, and how many there are. *io.SectionReader is one.
type Source interface {
	io.ReaderAt
	Size() int64
}

// Options say how to work. The zero value is usable.
type Options struct {
	// MemoryBytes bounds the memory of all goroutines together; zero means DefaultMemoryBytes. About a tenth of it is set aside for the tables of the
	// images (about 100 bytes per file and 50 per stored block), the index and the entropy coders of each goroutine, whatever they take. A
	// program that also sets HeapLimit takes no more in all. A delta that needs more is ErrLimit.
	MemoryBytes int64
	// Parallel is the number of goroutines that work at the same time; zero means one per processor.
	Parallel int
	// Progress, if not nil, is called now and then with what is being done ("hash", "diff", "prove", "write") and how much of it is
	// done, in bytes. It is called from several goroutines, but never from two at the same time.
	Progress func(stage string, done, total int64)
	// OldDigest, if not zero, is the digest that OLD is known to have. It is compared with the delta's, so that a wrong base is
	// refused before anything is read.
	OldDigest verity.Digest
	// NewDigest, if not zero, is the digest that NEW must have, from a source that is trusted. A delta that promises another one is
	// refused. Make uses it instead of computing it.
	NewDigest verity.Digest
	// Incoming reads NEW as far as it has been emitted; a Receiver needs it for groups with Group.Needs. It may be nil: such
	// groups are then refused. Apply and Verify provide it themselves.
	Incoming io.ReaderAt
	// TempDir is where Make keeps groups that do not fit into memory, and where all keep long plaintexts of OLD's nested streams (of an initrd: some
	// 150 MB), in files without a name; empty means os.TempDir.
	TempDir string
}

func (o Options) memory() int64 {
	if o.MemoryBytes <= 0 {
		return DefaultMemoryBytes
	}
	return o.MemoryBytes
}

func (o Options) parallel() int {
	if o.Parallel <= 0 {
		return runtime.GOMAXPROCS(0)
	}
	return o.Parallel
}

// Identity says which image is meant.
type Identity struct {
	// Size is the length of the squashfs file in bytes.
	Size int64
	// SHA256 is the hash of these bytes.
	SHA256 [32]byte
	// Digest is the dm-verity root hash of the disk.
	Digest verity.Digest
}

// Group describes one group of changed blocks.
type Group struct {
	// Offset and Length say where its bytes lie in the delta, counted from the delta's first byte.
	Offset, Length int64
	// SHA256 is the hash of these bytes.
	SHA256 [32]byte
	// RawBytes is how much content it decodes to, StoredBytes how many bytes of NEW it yields.
	RawBytes, StoredBytes int64
	// Blocks is the number of changed blocks in it.
	Blocks int
	// Needs lists the groups whose bytes must have been emitted (and be readable by Options.Incoming) before this one can be
	// decoded. Groups in that list need none themselves. Usually empty.
	Needs []int
}

// Stats tell what a delta consists of. All sizes are bytes on the wire unless the name says otherwise.
type Stats struct {
	Old, New   Identity
	Encoder    string // settings of the pinned encoder as text; empty: changed blocks are carried as stored bytes
	DeltaBytes int64  // the whole delta
	IndexBytes int64  // of it before the first group
	// What the index consists of, before its sections are put together: metadata columns, copy runs, group descriptors, proof,
	// nested streams of OLD.
	ColumnBytes, RunBytes, GroupTableBytes, ProofBytes, ExpansionBytes int64
	// What the groups consist of: operations, differences to OLD's content, new content by coder, blocks carried as stored bytes.
	OpBytes, PatchBytes, LiteralMixBytes, LiteralLZMABytes, LiteralStoredBytes, VerbatimBytes int64
	// Groups, blocks of NEW, blocks that are copied, changed blocks, and of these the ones carried as stored bytes.
	Groups, Blocks, CopiedBlocks, ChangedBlocks, VerbatimBlocks int
	// CopyRuns is the number of runs of copied blocks.
	CopyRuns int
	// NestedStreams is the number of compressed streams inside files that were opened.
	NestedStreams int
	// CopyBytes is how many bytes of NEW come unchanged from OLD; ChangedRawBytes how much content the changed blocks hold;
	// of that, PatchedRawBytes is coded as a difference and LiteralRawBytes as new content.
	CopyBytes, ChangedRawBytes, PatchedRawBytes, LiteralRawBytes int64
}
