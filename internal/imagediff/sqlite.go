package imagediff

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// errSQLite tells of a database that is not as https://www.sqlite.org/fileformat2.html describes it.
var errSQLite = errors.New("malformed sqlite database")

// Bounds of a database.
const (
	maxRecord = 64 << 20
	maxDepth  = 20
)

// sqlite reads tables of a database file. Its write-ahead log is not looked at: rpm folds it in when it closes the database.
type sqlite struct {
	data     []byte
	pageSize int
	usable   int
	left     int // pages that may still be visited: a tree with loops ends
}

// sqliteTable calls fn for each row of a table with the columns' bytes (numbers as big-endian integers, NULL as nil).
func sqliteTable(data []byte, table string, fn func(values [][]byte) error) error {
	const headerLen = 100
	if len(data) < headerLen || string(data[:16]) != "SQLite format 3\x00" {
		return fmt.Errorf("%w: no header", errSQLite)
	}
	db := &sqlite{data: data, pageSize: int(binary.BigEndian.Uint16(data[16:]))}
	if db.pageSize == 1 {
		db.pageSize = 1 << 16
	}
	db.usable = db.pageSize - int(data[20])
	if db.pageSize < 512 || db.pageSize&(db.pageSize-1) != 0 || db.usable < 480 {
		return fmt.Errorf("%w: pages of %d bytes", errSQLite, db.pageSize)
	}
	db.left = 2 * (len(data)/db.pageSize + 1)
	var root uint64
	err := db.walk(1, 0, func(v [][]byte) error {
		if len(v) >= 4 && string(v[0]) == "table" && string(v[1]) == table {
			root = integer(v[3])
		}
		return nil
	})
	if err != nil {
		return err
	}
	if root == 0 {
		return fmt.Errorf("%w: no table %s", errSQLite, table)
	}
	return db.walk(root, 0, fn)
}

func integer(b []byte) uint64 {
	var n uint64
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

func (db *sqlite) page(number uint64) ([]byte, error) {
	if db.left--; db.left < 0 {
		return nil, fmt.Errorf("%w: its pages form a loop", errSQLite)
	}
	if number == 0 || number > uint64(len(db.data)/db.pageSize) {
		return nil, fmt.Errorf("%w: page %d does not exist", errSQLite, number)
	}
	return db.data[(number-1)*uint64(db.pageSize):][:db.pageSize], nil
}

// walk visits a table b-tree in order.
func (db *sqlite) walk(number uint64, depth int, fn func([][]byte) error) error {
	page, err := db.page(number)
	if err != nil {
		return err
	}
	start := 0
	if number == 1 {
		start = 100 // the database header lies on it
	}
	kind, cells := page[start], int(binary.BigEndian.Uint16(page[start+3:]))
	pointers := start + 8
	if kind == 0x05 {
		pointers += 4
	}
	if pointers+2*cells > len(page) || depth > maxDepth {
		return fmt.Errorf("%w: page %d has %d cells", errSQLite, number, cells)
	}
	for i := range cells {
		at := int(binary.BigEndian.Uint16(page[pointers+2*i:]))
		if at+4 > len(page) {
			return fmt.Errorf("%w: cell outside of page %d", errSQLite, number)
		}
		switch kind {
		case 0x05: // interior: a child page and a key
			err = db.walk(uint64(binary.BigEndian.Uint32(page[at:])), depth+1, fn)
		case 0x0d: // leaf
			err = db.leaf(page[at:], fn)
		default:
			err = fmt.Errorf("%w: page %d is no table", errSQLite, number)
		}
		if err != nil {
			return err
		}
	}
	if kind == 0x05 {
		return db.walk(uint64(binary.BigEndian.Uint32(page[start+8:])), depth+1, fn)
	}
	return nil
}

// leaf reads a cell: length of the record, row number, the record's first part, the first of the overflow pages that hold the rest.
func (db *sqlite) leaf(cell []byte, fn func([][]byte) error) error {
	length, cell, ok := varint(cell)
	if !ok || length > maxRecord {
		return fmt.Errorf("%w: record of %d bytes", errSQLite, length)
	}
	if _, cell, ok = varint(cell); !ok {
		return fmt.Errorf("%w: cell without a row number", errSQLite)
	}
	total, local := int(length), int(length)
	if most := db.usable - 35; total > most {
		least := (db.usable-12)*32/255 - 23
		if local = least + (total-least)%(db.usable-4); local > most {
			local = least
		}
	}
	if local > len(cell) || local < total && local+4 > len(cell) {
		return fmt.Errorf("%w: record runs out of its page", errSQLite)
	}
	record := append(make([]byte, 0, min(total, len(db.data))), cell[:local]...)
	if local < total {
		next := uint64(binary.BigEndian.Uint32(cell[local:]))
		for len(record) < total {
			page, err := db.page(next)
			if err != nil {
				return err
			}
			next = uint64(binary.BigEndian.Uint32(page))
			record = append(record, page[4:4+min(total-len(record), db.usable-4)]...)
		}
	}
	values, err := columns(record)
	if err != nil {
		return err
	}
	return fn(values)
}

// columns cuts a record: length of its header, a type for each column, the columns.
func columns(record []byte) ([][]byte, error) {
	length, rest, ok := varint(record)
	start := len(record) - len(rest)
	if !ok || length > uint64(len(record)) || length < uint64(start) {
		return nil, fmt.Errorf("%w: record header", errSQLite)
	}
	types, body := record[start:length:length], record[length:]
	var values [][]byte
	for len(types) > 0 {
		var typ uint64
		if typ, types, ok = varint(types); !ok {
			return nil, fmt.Errorf("%w: column type", errSQLite)
		}
		size := [...]uint64{0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0}
		n := uint64(0)
		if typ < uint64(len(size)) {
			n = size[typ]
		} else {
			n = (typ - 12) / 2
		}
		if n > uint64(len(body)) {
			return nil, fmt.Errorf("%w: column of %d bytes", errSQLite, n)
		}
		values = append(values, body[:n])
		body = body[n:]
	}
	return values, nil
}

// varint reads a number of one to nine bytes, the first the most significant.
func varint(b []byte) (uint64, []byte, bool) {
	var n uint64
	for i := range min(9, len(b)) {
		if i == 8 {
			return n<<8 | uint64(b[8]), b[9:], true
		}
		n = n<<7 | uint64(b[i]&0x7f)
		if b[i] < 0x80 {
			return n, b[i+1:], true
		}
	}
	return 0, nil, false
}
