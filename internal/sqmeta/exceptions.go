package sqmeta

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// orNone gives an encoder that compresses nothing if there is none.
func (enc Compress) orNone() Compress {
	if enc != nil {
		return enc
	}
	return func(dst, src []byte) ([]byte, bool, error) { return append(dst, src...), false, nil }
}

// encoder wraps enc in the flags that keep it off some tables.
func (s *super) encoder(enc Compress) compressTable {
	enc = enc.orNone()
	inodes := squashfs.Flags(s.flags)&squashfs.UncompressedInodes != 0
	fragments := squashfs.Flags(s.flags)&squashfs.UncompressedFragments != 0
	ids := squashfs.Flags(s.flags)&squashfs.UncompressedIDs != 0
	xattrs := squashfs.Flags(s.flags)&squashfs.UncompressedXattrs != 0
	raw := [tables]bool{tableInodes: inodes, tableDirectories: inodes, tableFragments: fragments, tableExport: inodes, tableIDs: ids || inodes,
		tableValues: xattrs, tableXattrs: xattrs}
	var buf []byte
	return func(id tableID, _ int, src []byte) ([]byte, bool, error) {
		if raw[id] {
			return src, false, nil
		}
		out, compressed, err := enc(buf[:0], src)
		buf = out
		return out, compressed, err
	}
}

// exceptions is an encoder with a list of the metadata blocks that another one made, in the order of writing: a varint that counts the
// blocks before it that need none, the block's header (two bytes, as stored), and the stored bytes unless they are the content itself.
type exceptions struct {
	comp compressTable
	list []byte
	gap  uint64 // making the list: blocks since the last entry; using it: blocks before the next one
	open bool   // using it: gap is valid
}

// note compares a stored block with what the encoder makes and keeps it if that is something else.
func (x *exceptions) note(id tableID, i int, src, stored []byte, compressed bool) error {
	out, c, err := x.comp(id, i, src)
	if err != nil {
		return err
	}
	if c == compressed && bytes.Equal(out, stored) {
		x.gap++
		return nil
	}
	x.list = binary.AppendUvarint(x.list, x.gap)
	x.gap = 0
	if !compressed {
		x.list = binary.LittleEndian.AppendUint16(x.list, storedRaw)
		return nil
	}
	x.list = append(binary.LittleEndian.AppendUint16(x.list, uint16(len(stored))), stored...)
	return nil
}

// next is the encoder that follows the list.
func (x *exceptions) next(id tableID, i int, src []byte) ([]byte, bool, error) {
	bad := func() error { return fmt.Errorf("%w: bad entry in %q", ErrColumns, colStored.String()) }
	if !x.open && len(x.list) > 0 {
		gap, n := binary.Uvarint(x.list)
		if n <= 0 || len(x.list) < n+2 {
			return nil, false, bad()
		}
		x.gap, x.list, x.open = gap, x.list[n:], true
	}
	if !x.open {
		return x.comp(id, i, src)
	}
	if x.gap > 0 {
		x.gap--
		return x.comp(id, i, src)
	}
	h := binary.LittleEndian.Uint16(x.list)
	x.list, x.open = x.list[2:], false
	if h == storedRaw {
		return src, false, nil
	}
	if h == 0 || h > metaBlock || int(h) > len(x.list) {
		return nil, false, bad()
	}
	out := x.list[:h]
	x.list = x.list[h:]
	return out, true, nil
}
