package imagediff

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Tags of an RPM header (rpm's rpmtag.h).
const (
	tagName       = 1000
	tagVersion    = 1001
	tagRelease    = 1002
	tagEpoch      = 1003
	tagArch       = 1022
	tagDirIndexes = 1116
	tagBaseNames  = 1117
	tagDirNames   = 1118
)

const maxHeaderEntries = 1 << 16

var errHeader = errors.New("malformed RPM header")

// rpmPackages lists the packages in an sqlite database of rpm.
func rpmPackages(db []byte) ([]pkg, error) {
	var list []pkg
	err := sqliteTable(db, "Packages", func(values [][]byte) error {
		if len(values) < 2 {
			return errHeader
		}
		p, err := parseHeader(values[1])
		if err != nil {
			return err
		}
		if p.name != "gpg-pubkey" {
			list = append(list, p)
		}
		return nil
	})
	return list, err
}

// header is an RPM header blob without its magic: u32 entries, u32 bytes of data, entries of 16 bytes (tag, type, offset, count), data.
type header struct {
	data    []byte
	entries map[uint32]headerEntry
}

type headerEntry struct{ typ, offset, count uint32 }

func parseHeader(b []byte) (pkg, error) {
	if len(b) < 8 {
		return pkg{}, errHeader
	}
	n, size := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if n > maxHeaderEntries || uint64(len(b)) < 8+uint64(n)*16+uint64(size) {
		return pkg{}, fmt.Errorf("%w: %d entries and %d bytes of data in %d bytes", errHeader, n, size, len(b))
	}
	h := header{data: b[8+n*16:][:size], entries: make(map[uint32]headerEntry, n)}
	for i := range n {
		e := b[8+i*16:]
		h.entries[binary.BigEndian.Uint32(e)] = headerEntry{binary.BigEndian.Uint32(e[4:]), binary.BigEndian.Uint32(e[8:]), binary.BigEndian.Uint32(e[12:])}
	}
	p := pkg{name: h.text(tagName), arch: h.text(tagArch), version: h.text(tagVersion) + "-" + h.text(tagRelease)}
	if e := h.ints(tagEpoch); len(e) > 0 {
		p.version = fmt.Sprintf("%d:%s", e[0], p.version)
	}
	if p.name == "" {
		return pkg{}, fmt.Errorf("%w: a package without a name", errHeader)
	}
	dirs, indexes := h.texts(tagDirNames), h.ints(tagDirIndexes)
	for i, base := range h.texts(tagBaseNames) {
		if i < len(indexes) && int64(indexes[i]) < int64(len(dirs)) {
			p.files = append(p.files, strings.TrimPrefix(dirs[indexes[i]]+base, "/"))
		}
	}
	return p, nil
}

// texts reads a string (type 6) or an array of strings (8, 9).
func (h *header) texts(tag uint32) []string {
	e, ok := h.entries[tag]
	if !ok || uint64(e.offset) > uint64(len(h.data)) || e.typ != 6 && e.typ != 8 && e.typ != 9 {
		return nil
	}
	var out []string
	rest := h.data[e.offset:]
	for range e.count {
		i := strings.IndexByte(string(rest[:min(len(rest), 4096)]), 0)
		if i < 0 {
			return out
		}
		out = append(out, string(rest[:i]))
		rest = rest[i+1:]
	}
	return out
}

func (h *header) text(tag uint32) string {
	if t := h.texts(tag); len(t) > 0 {
		return t[0]
	}
	return ""
}

// ints reads an array of 32-bit numbers (type 4).
func (h *header) ints(tag uint32) []uint32 {
	e, ok := h.entries[tag]
	if !ok || e.typ != 4 || uint64(e.offset)+uint64(e.count)*4 > uint64(len(h.data)) {
		return nil
	}
	out := make([]uint32, e.count)
	for i := range out {
		out[i] = binary.BigEndian.Uint32(h.data[e.offset+uint32(i)*4:])
	}
	return out
}
