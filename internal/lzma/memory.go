package lzma

import (
	"fmt"
	"math"
	"runtime/debug"
	"sync"
	"syscall"
	"unsafe"
)

// table is memory outside of the garbage collector's heap, which would otherwise count it twice. If the program has a memory limit
// (debug.SetMemoryLimit), it is lower by as much meanwhile.
type table struct {
	bytes   []byte
	limited bool
}

var limit sync.Mutex // held while the program's memory limit is changed

// leastHeap is what the memory limit leaves to the heap at least.
const leastHeap = 32 << 20

// large is from how many bytes on the heap's garbage is given back to the system first: by itself that would take a while.
const large = 64 << 20

// lower takes n bytes, which may be negative, off the program's memory limit; it tells whether there is one that allows it.
func lower(n int) bool {
	limit.Lock()
	defer limit.Unlock()
	was := debug.SetMemoryLimit(-1)
	if was == math.MaxInt64 || was-int64(n) < leastHeap {
		return false
	}
	debug.SetMemoryLimit(was - int64(n))
	if n >= large {
		debug.FreeOSMemory()
	}
	return true
}

// hugePages asks for large pages: the entries are read in no order.
const hugePages = 14 // MADV_HUGEPAGE

// make returns n zeros, which are valid until the next call of make or free.
func (t *table) make(n int) ([]uint32, error) {
	t.free()
	t.limited = lower(4 * n)
	b, err := syscall.Mmap(-1, 0, 4*n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		if t.limited {
			lower(-4 * n)
		}
		return nil, fmt.Errorf("map %d bytes: %w", 4*n, err)
	}
	_ = syscall.Madvise(b, hugePages) // some kernels have none, and are slower
	t.bytes = b
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(b))), n), nil
}

func (t *table) free() {
	if t.bytes != nil {
		if t.limited {
			lower(-len(t.bytes))
		}
		_ = syscall.Munmap(t.bytes) // fails only for memory that is not mapped
		t.bytes = nil
	}
}
