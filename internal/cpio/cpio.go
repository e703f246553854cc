// Package cpio writes archives in the "newc" format that Linux takes as an initramfs
// (Linux Documentation/driver-api/early-userspace/buffer-format.rst). What it writes depends on nothing but the headers it is given:
// owners are 0:0, times are 0, inode numbers count up from 1. It does not read archives and knows no hard links.
//
// The archive's length is a multiple of four bytes, so that archives may follow each other in one file, as Linux allows.
package cpio

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// File types for Header.Mode, as in stat(2).
const (
	TypeDir        = 0o040000
	TypeCharDevice = 0o020000
	TypeFile       = 0o100000
	TypeSymlink    = 0o120000
	typeMask       = 0o170000
)

const (
	headerLen = 110
	maxName   = 4095 // Linux: PATH_MAX with the closing zero byte
	maxSize   = 1<<32 - 1
	trailer   = "TRAILER!!!"
)

// The states that a caller may test for.
var (
	// ErrName: a name is empty, absolute, too long, or has "." or ".." elements.
	ErrName = errors.New("invalid name in archive")
	// ErrSize: a file is longer than 4 GiB, or its content is not as long as its header said.
	ErrSize = errors.New("wrong size in archive")
)

// Header describes one entry.
type Header struct {
	// Name is relative and slash-separated.
	Name string
	// Mode is one of the Type constants with permission bits.
	Mode uint32
	// Size is the length of the content in bytes: of a file, or of a symbolic link's target.
	Size int64
	// Major and Minor number a device.
	Major, Minor uint32
}

// Writer writes one archive. It is not safe for concurrent use. The first error of the underlying writer stays.
type Writer struct {
	w       io.Writer
	inode   uint32
	left    int64 // content bytes of the current entry that are still to come
	pad     int   // zero bytes behind them
	current string
	err     error
}

// NewWriter writes to w, unbuffered: each header and each Write is one or two writes there. The caller closes w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// WriteHeader begins an entry; its content follows by Write. Parent directories must have been written before.
func (w *Writer) WriteHeader(h Header) error {
	if err := w.finishEntry(); err != nil {
		return err
	}
	if err := checkName(h.Name); err != nil {
		return err
	}
	if h.Size < 0 || h.Size > maxSize {
		return fmt.Errorf("%w: %s has %d bytes", ErrSize, h.Name, h.Size)
	}
	links := uint32(1)
	if h.Mode&typeMask == TypeDir {
		links = 2
	}
	w.inode++
	w.header(h, w.inode, links)
	w.current, w.left, w.pad = h.Name, h.Size, int(-h.Size&3)
	return w.err
}

func checkName(name string) error {
	if len(name) > maxName || strings.ContainsRune(name, 0) {
		return fmt.Errorf("%w: %.40q", ErrName, name)
	}
	for elem := range strings.SplitSeq(name, "/") {
		if elem == "" || elem == "." || elem == ".." {
			return fmt.Errorf("%w: %.40q", ErrName, name)
		}
	}
	if name == trailer {
		return fmt.Errorf("%w: %q", ErrName, name)
	}
	return nil
}

func (w *Writer) header(h Header, inode, links uint32) {
	b := make([]byte, 0, headerLen+len(h.Name)+4)
	b = append(b, "070701"...)
	for _, v := range [...]uint32{
		inode, h.Mode, 0, 0, links, 0, uint32(h.Size),
		0, 0, h.Major, h.Minor, uint32(len(h.Name) + 1), 0,
	} {
		b = fmt.Appendf(b, "%08x", v)
	}
	b = append(b, h.Name...)
	b = append(b, 0)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	w.write(b)
}

func (w *Writer) write(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
}

// Write appends to the content of the current entry. More than its header's Size is ErrSize.
func (w *Writer) Write(b []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(b)) > w.left {
		return 0, fmt.Errorf("%w: %s has more content than its header says", ErrSize, w.current)
	}
	n, err := w.w.Write(b)
	w.left -= int64(n)
	w.err = err
	return n, err
}

// finishEntry pads the current entry.
func (w *Writer) finishEntry() error {
	if w.err != nil {
		return w.err
	}
	if w.left > 0 {
		return fmt.Errorf("%w: %s has %d bytes less content than its header says", ErrSize, w.current, w.left)
	}
	if w.pad > 0 {
		w.write(make([]byte, w.pad))
		w.pad = 0
	}
	return w.err
}

// Close writes the archive's end. It does not close the underlying writer.
func (w *Writer) Close() error {
	if err := w.finishEntry(); err != nil {
		return err
	}
	w.header(Header{Name: trailer}, 0, 1)
	err := w.err
	if err == nil {
		w.err = errors.New("archive is closed")
	}
	return err
}

// Dir writes a directory with the permission bits perm.
func (w *Writer) Dir(name string, perm uint32) error {
	return w.WriteHeader(Header{Name: name, Mode: TypeDir | perm})
}

// File writes a regular file with its content.
func (w *Writer) File(name string, perm uint32, data []byte) error {
	if err := w.WriteHeader(Header{Name: name, Mode: TypeFile | perm, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// Symlink writes a symbolic link.
func (w *Writer) Symlink(name, target string) error {
	if err := w.WriteHeader(Header{Name: name, Mode: TypeSymlink | 0o777, Size: int64(len(target))}); err != nil {
		return err
	}
	_, err := io.WriteString(w, target)
	return err
}

// CharDevice writes a character device.
func (w *Writer) CharDevice(name string, perm, major, minor uint32) error {
	return w.WriteHeader(Header{Name: name, Mode: TypeCharDevice | perm, Major: major, Minor: minor})
}
