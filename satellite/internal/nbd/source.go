package nbd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// source is the file behind an export. All connections to the same part of the same file share one, so that the mapping's page
// tables are filled once.
type source struct {
	key  sourceKey
	refs int // guarded by sourceSet.mu

	// file is a descriptor of our own: it outlives any one connection's export.
	file   *os.File
	fd     int
	offset int64
	size   int64
	// mapping is the export's bytes from offset rounded down to a page; nil if there is none. Only the kernel reads it, within
	// system calls: a file that shrinks or a bad sector is an error there and not a signal here.
	mapping []byte
	lead    int // bytes in mapping before the export begins
}

type sourceKey struct {
	dev, ino     uint64
	offset, size int64
}

// sourceSet finds the source of a file. The zero value is ready.
type sourceSet struct {
	mu   sync.Mutex
	open map[sourceKey]*source
}

// acquire returns the source for size bytes from offset of f. The caller releases it.
func (s *sourceSet) acquire(f *os.File, offset, size int64) (*source, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", f.Name())
	}
	if offset < 0 || size < 0 || offset > info.Size() || size > info.Size()-offset {
		return nil, fmt.Errorf("%s has %d bytes, the export is %d bytes from %d: %w", f.Name(), info.Size(), size, offset, io.ErrUnexpectedEOF)
	}
	key := sourceKey{st.Dev, st.Ino, offset, size}
	s.mu.Lock()
	defer s.mu.Unlock()
	if src := s.open[key]; src != nil {
		src.refs++
		return src, nil
	}
	src, err := newSource(key, f)
	if err != nil {
		return nil, err
	}
	if s.open == nil {
		s.open = make(map[sourceKey]*source)
	}
	s.open[key] = src
	return src, nil
}

func newSource(key sourceKey, f *os.File) (*source, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, dupErr := -1, error(nil)
	if err := raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, fmt.Errorf("duplicate descriptor of %s: %w", f.Name(), dupErr)
	}
	src := &source{key: key, refs: 1, file: os.NewFile(uintptr(fd), f.Name()), fd: fd, offset: key.offset, size: key.size}
	src.lead = int(key.offset % int64(os.Getpagesize()))
	if length := key.size + int64(src.lead); key.size > 0 && int64(int(length)) == length {
		// Without a mapping all reads go by sendfile.
		if m, err := unix.Mmap(fd, key.offset-int64(src.lead), int(length), unix.PROT_READ, unix.MAP_SHARED); err == nil {
			src.mapping = m
		}
	}
	return src, nil
}

// release gives back what acquire returned.
func (s *sourceSet) release(src *source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if src.refs--; src.refs > 0 {
		return
	}
	delete(s.open, src.key)
	var err error
	if src.mapping != nil {
		err = unix.Munmap(src.mapping)
	}
	// Neither can fail on a descriptor and a mapping of our own; nothing was written.
	_ = errors.Join(err, src.file.Close())
}
