package chunkstore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
)

// DefaultReserveBytes is kept free on the file system of a Disk, so that whoever shares it (the metadata store) can still write.
const DefaultReserveBytes = 64 << 20

// DiskConfig says where a Disk lies.
type DiskConfig struct {
	// Dir is made if it is not there; its parent must be. It belongs to one open Disk at a time.
	Dir string
	// ReserveBytes is how much space stays free; 0 means DefaultReserveBytes, a negative value none.
	ReserveBytes int64
	// Now is the clock for Info.Used; nil means time.Now.
	Now func() time.Time
}

// Disk is a Store in a directory: DIR/aa/ID, where aa are the first two digits of the ID, and DIR/tmp for chunks that are being written. A
// chunk appears by a rename, so a name never stands for half a chunk while the machine keeps running; what the loss of power leaves
// behind is caught by the verification of each read.
type Disk struct {
	dir     string
	tmp     string
	reserve uint64
	now     func() time.Time
}

// OpenDisk opens or makes the directory and removes what an interrupted writer left.
func OpenDisk(cfg DiskConfig) (*Disk, error) {
	d := &Disk{dir: cfg.Dir, tmp: filepath.Join(cfg.Dir, "tmp"), now: cfg.Now}
	if d.now == nil {
		d.now = time.Now
	}
	switch {
	case cfg.ReserveBytes == 0:
		d.reserve = DefaultReserveBytes
	case cfg.ReserveBytes > 0:
		d.reserve = uint64(cfg.ReserveBytes)
	}
	if err := d.prepare(); err != nil {
		return nil, fmt.Errorf("open chunk store %s: %w", cfg.Dir, err)
	}
	return d, nil
}

func (d *Disk) prepare() error {
	if err := os.RemoveAll(d.tmp); err != nil {
		return err
	}
	for _, dir := range []string{d.dir, d.tmp} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for i := range 256 {
		dir := filepath.Join(d.dir, hex.EncodeToString([]byte{byte(i)}))
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return atomicfile.SyncDir(d.dir)
}

func (d *Disk) path(id chunk.ID) string {
	name := hex.EncodeToString(id[:])
	return filepath.Join(d.dir, name[:2], name)
}

// Put implements Store.
func (d *Disk) Put(ctx context.Context, id chunk.ID, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := check(id, data); err != nil {
		return err
	}
	if err := d.room(uint64(len(data))); err != nil {
		return err
	}
	if err := d.write(id, data); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			free, _ := d.free() // 0 when even that fails: the message is about a full disk anyway
			return &NoSpaceError{Dir: d.dir, NeedBytes: uint64(len(data)), FreeBytes: free, ReserveBytes: d.reserve}
		}
		return fmt.Errorf("put chunk %s: %w", id, err)
	}
	return nil
}

func (d *Disk) write(id chunk.ID, data []byte) error {
	f, err := os.CreateTemp(d.tmp, "put-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		now := d.now()
		err = os.Chtimes(f.Name(), now, now)
	}
	if err == nil {
		err = os.Rename(f.Name(), d.path(id))
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error counts; OpenDisk removes leftovers too
	}
	return err
}

// room refuses what would eat into the reserve.
func (d *Disk) room(need uint64) error {
	free, err := d.free()
	if err != nil {
		return fmt.Errorf("ask for the free space of %s: %w", d.dir, err)
	}
	if free < d.reserve+need {
		return &NoSpaceError{Dir: d.dir, NeedBytes: need, FreeBytes: free, ReserveBytes: d.reserve}
	}
	return nil
}

func (d *Disk) free() (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// Space returns the free bytes that chunks may still take and the size of the file system, both in bytes.
func (d *Disk) Space() (free, size uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return 0, 0, fmt.Errorf("ask for the space of %s: %w", d.dir, err)
	}
	free = st.Bavail * uint64(st.Bsize)
	return free - min(free, d.reserve), st.Blocks * uint64(st.Bsize), nil
}

// Get implements Store.
func (d *Disk) Get(ctx context.Context, id chunk.ID, buf []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := d.read(id, buf)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("get chunk %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("get chunk %s: %w", id, err)
	}
	if err := check(id, data); err != nil {
		return nil, err
	}
	return data, nil
}

func (d *Disk) read(id chunk.ID, buf []byte) ([]byte, error) {
	f, err := os.Open(d.path(id))
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := st.Size()
	if size == 0 || size > chunk.MaxSize {
		return nil, &CorruptError{ID: id, Err: fmt.Errorf("chunk %s: its file has %d bytes", id, size)}
	}
	if int64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	_, err = io.ReadFull(f, buf)
	return buf, err
}

// Has implements Store. An empty file, which a loss of power can leave, counts as not there.
func (d *Disk) Has(ctx context.Context, ids []chunk.ID) ([]bool, error) {
	has := make([]bool, len(ids))
	for i, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		st, err := os.Stat(d.path(id))
		if err == nil && st.Size() > 0 {
			now := d.now()
			err = os.Chtimes(d.path(id), now, now)
			has[i] = err == nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("look for chunk %s: %w", id, err)
		}
	}
	return has, nil
}

// Stat implements Store.
func (d *Disk) Stat(ctx context.Context, id chunk.ID) (Info, error) {
	if err := ctx.Err(); err != nil {
		return Info{}, err
	}
	st, err := os.Stat(d.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, fmt.Errorf("stat chunk %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return Info{}, fmt.Errorf("stat chunk %s: %w", id, err)
	}
	return Info{ID: id, SizeBytes: st.Size(), Used: st.ModTime()}, nil
}

// Delete implements Store.
func (d *Disk) Delete(ctx context.Context, id chunk.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.Remove(d.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete chunk %s: %w", id, err)
	}
	return nil
}

// Walk implements Store. Files whose names are no IDs are passed over.
func (d *Disk) Walk(ctx context.Context, fn func(Info) error) error {
	for i := range 256 {
		dir := filepath.Join(d.dir, hex.EncodeToString([]byte{byte(i)}))
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("walk chunks: %w", err)
		}
		for _, entry := range entries {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := visit(entry, fn); err != nil {
				return err
			}
		}
	}
	return nil
}

func visit(entry fs.DirEntry, fn func(Info) error) error {
	raw, err := hex.DecodeString(entry.Name())
	if err != nil || len(raw) != len(chunk.ID{}) {
		return nil
	}
	st, err := entry.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("walk chunks: %w", err)
	}
	return fn(Info{ID: chunk.ID(raw), SizeBytes: st.Size(), Used: st.ModTime()})
}

// Sync implements Store by one syncfs(2): a barrier for everything on the file system costs less than an fsync for each of thousands of
// chunks. The kernel reports write errors since the last call (Linux 5.8).
func (d *Disk) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := os.Open(d.dir)
	if err != nil {
		return fmt.Errorf("sync chunk store: %w", err)
	}
	defer f.Close() // only read
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync chunk store %s: %w", d.dir, err)
	}
	return nil
}
