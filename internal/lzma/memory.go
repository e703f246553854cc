package lzma

import (
	"fmt"
	"syscall"
	"unsafe"
)

// table is memory outside of the garbage collector's heap, which would otherwise count it twice.
type table struct{ bytes []byte }

// hugePages asks for large pages: the entries are read in no order.
const hugePages = 14 // MADV_HUGEPAGE

// make returns n zeros, which are valid until the next call of make or free.
func (t *table) make(n int) ([]uint32, error) {
	t.free()
	b, err := syscall.Mmap(-1, 0, 4*n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", 4*n, err)
	}
	_ = syscall.Madvise(b, hugePages) // some kernels have none, and are slower
	t.bytes = b
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(b))), n), nil
}

func (t *table) free() {
	if t.bytes != nil {
		_ = syscall.Munmap(t.bytes) // fails only for memory that is not mapped
		t.bytes = nil
	}
}
