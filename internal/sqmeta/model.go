package sqmeta

// Inode types as they stand in the inode table; the extended form of a basic type is extended higher.
const (
	typeDir = 1 + iota
	typeFile
	typeSymlink
	typeBlockDev
	typeCharDev
	typeFIFO
	typeSocket
	extended = 7
)

const (
	metaBlock  = 8 << 10 // expanded bytes of a full metadata block
	storedRaw  = 1 << 15 // bit of a metadata block's header
	blockRaw   = 1 << 24 // bit of a data block's size
	noFragment = 0xffffffff
	noXattr    = 0xffffffff
	noTable    = ^uint64(0)
	superLen   = 96
	maxName    = 256
	runLen     = 256  // entries behind one header of a listing
	alignment  = 4096 // of the file's length
	listExtra  = 3    // a listing's size counts "." and "..", which are not stored
)

// inode is one inode without anything that says where in the metadata something lies.
type inode struct {
	typ      uint8
	mode     uint16
	uid, gid uint16 // indices into the ID table
	mtime    uint32
	number   uint32
	nlink    uint32
	xattr    uint32

	// Regular files. words is the block list as stored; files with the same content may share it.
	start, size, sparse uint64
	frag, fragOff       uint32
	words               []uint32

	rdev uint32 // devices

	// Symbolic links: the target in model.targets; directories: their entries in model.entries.
	first, count uint32
	parent       uint32 // directories: number of the one above
}

// kind is the basic type that directory entries give.
func (n *inode) kind() uint8 { return (n.typ-1)%extended + 1 }

// tail is how many bytes of a file lie in its fragment.
func (n *inode) tail(blockSize uint32) uint64 { return n.size % uint64(blockSize) }

// storedBytes is the length of a file's blocks in the image.
func (n *inode) storedBytes() uint64 {
	var sum uint64
	for _, w := range n.words {
		sum += uint64(w &^ blockRaw)
	}
	return sum
}

// wordCount is how many blocks a file of size bytes has beside its fragment.
func wordCount(size uint64, blockSize, frag uint32) uint64 {
	n := size / uint64(blockSize)
	if frag == noFragment && size%uint64(blockSize) != 0 {
		n++
	}
	return n
}

// entry is one name of a directory.
type entry struct {
	name  uint32 // where it begins in model.names
	n     uint16 // its length
	child uint32 // index into model.inodes
}

// fragment is one entry of the fragment table; size has the bit blockRaw.
type fragment struct {
	start uint64
	size  uint32
}

// xattrRow is one entry of the xattr ID table; at is the position of the first attribute in the expanded values.
type xattrRow struct {
	at          uint64
	count, size uint32
}

// super holds the fields of the superblock that do not follow from the tables.
type super struct {
	mkfsTime   uint32
	blockSize  uint32
	compressor uint16
	blockLog   uint16
	flags      uint16
	major      uint16
	minor      uint16
	root       uint32 // index into model.inodes
	export     bool   // there is an export table
	xattrs     bool   // there is an xattr table
}

// model is everything that an image's metadata says, free of layout.
type model struct {
	super   super
	options []byte // the compressor options as stored, with their header
	inodes  []inode
	entries []entry
	names   []byte
	targets []byte
	frags   []fragment
	ids     []uint32
	values  []byte // expanded xattr values
	rows    []xattrRow
	end     uint64 // where the inode table begins
	padding []byte // what lies behind the last table, if that is not
	aligned bool   // zeros up to a multiple of 4096 bytes
	stored  []byte // metadata blocks that the encoder does not make, see exceptions
}

func (m *model) name(e entry) []byte { return m.names[e.name : e.name+uint32(e.n)] }

func (m *model) target(n *inode) []byte { return m.targets[n.first : n.first+n.count] }

func (m *model) dir(n *inode) []entry { return m.entries[n.first : n.first+n.count] }
