// Package initrd makes the initrd of a client out of an image's own kernel modules, with the agent as /init. Any systemd distribution
// boots with it; nothing has to be installed in the image. The package reads the image and writes one stream: it starts nothing but
// the zstd program, if there is one.
//
// What is inside:
//
//	/init                        the agent
//	/dev /proc /sys /run /ro /rw /newroot /ltsp    empty, /dev with console (5:1)
//	/lib/modules/RELEASE/...     modules as plain .ko, at the same paths as in the image
//	/lib/modules/RELEASE/modules.dep modules.alias modules.softdep modules.weakdep    text, only lines about modules that are there
//	/lib/modules/RELEASE/modules.builtin    as in the image
//	/lib/firmware/...            firmware files that those modules name
//
// Modules are never stripped: the signature that Secure Boot's lockdown asks for is appended to the file. Compressed ones (.xz, .zst,
// .gz) are expanded, because the kernel need not be able to; the signature is inside.
//
// The same image, options and zstd program give the same bytes.
package initrd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/cpio"
)

// Set chooses how many modules go in.
type Set int

const (
	// Full has every Ethernet driver, common USB network adapters and the drivers of the usual virtual machines.
	Full Set = iota
	// School has the network adapters that are found in school PCs, a third of the size.
	School
)

// String gives "full" or "school".
func (s Set) String() string {
	if s == School {
		return "school"
	}
	return "full"
}

// The states that a caller may test for.
var (
	// ErrMissingModule: a module that no client can boot without, or one that was asked for, is neither a file nor built in.
	ErrMissingModule = errors.New("kernel module not found")
	// ErrNoModules: the image has no modules.dep for the kernel release.
	ErrNoModules = errors.New("no modules for the kernel")
)

// Options choose what is built.
type Options struct {
	// Set is Full if zero.
	Set Set
	// KernelRelease is what `uname -r` will say; required.
	KernelRelease string
	// Agent is the program that becomes /init; required.
	Agent []byte
	// Firmware adds the firmware files that the modules name, as far as the image has them.
	Firmware bool
	// ExtraModules are names of further modules; each must exist.
	ExtraModules []string
	// Compression is Auto if zero.
	Compression Compression
	// ZstdProgram is the zstd program for Zstd19; empty looks for it in PATH. If there is none, a weaker encoder of our own is used.
	ZstdProgram string
	// Progress is called with the uncompressed bytes that have been written; total is an estimate from above. nil is allowed.
	Progress func(done, total int64)
}

// Stats say what was built.
type Stats struct {
	Modules       int
	FirmwareFiles int
	// MissingFirmware are names that modules gave and the image does not have, sorted.
	MissingFirmware []string
	// RawBytes is the archive's length, Bytes what was written.
	RawBytes, Bytes int64
	// Compressor says what compressed: "zstd -19", "zstd (built in)", "gzip -9" or "none".
	Compressor string
}

// Build writes the initrd for the image to w. With zstd -19 it takes some 25 s of one processor for the full set. Errors match
// ErrMissingModule or ErrNoModules, or come from the image, the compressor, w or ctx.
func Build(ctx context.Context, image fs.FS, o Options, w io.Writer) (Stats, error) {
	if o.KernelRelease == "" || len(o.Agent) == 0 {
		return Stats{}, errors.New("initrd: kernel release and agent are required")
	}
	mods, err := readModules(image, o.KernelRelease)
	if err != nil {
		return Stats{}, err
	}
	chosen, err := mods.choose(o.Set, o.ExtraModules)
	if err != nil {
		return Stats{}, err
	}
	b := &builder{image: image, mods: mods, chosen: chosen, options: o, files: map[string]source{}}
	if err := b.collect(ctx); err != nil {
		return Stats{}, err
	}
	out := &countingWriter{w: w}
	method := o.Compression.decide(image, mods)
	c, name, err := newCompressor(ctx, method, o.ZstdProgram, out)
	if err != nil {
		return Stats{}, err
	}
	raw := &countingWriter{w: c}
	err = b.write(ctx, raw)
	if closeErr := c.Close(); closeErr != nil && (err == nil || errors.Is(err, errCompressorGone)) {
		err = closeErr
	}
	if err == nil {
		err = out.pad()
	}
	b.stats.RawBytes, b.stats.Bytes, b.stats.Compressor = raw.n, out.n, name
	return b.stats, err
}

// source gives the content of one file of the initrd.
type source struct {
	size int64 // an estimate for the progress
	perm uint32
	open func() ([]byte, error)
}

// builder gathers the files and then writes them in order of their names.
type builder struct {
	image   fs.FS
	mods    *modules
	chosen  []string // module names, sorted
	options Options
	files   map[string]source
	stats   Stats
}

// dirs are the empty directories that the agent uses.
var dirs = []string{"dev", "proc", "sys", "run", "ro", "rw", "newroot", "ltsp"}

func (b *builder) collect(ctx context.Context) error {
	b.add("init", 0o755, b.options.Agent)
	target := "lib/modules/" + b.options.KernelRelease + "/"
	firmware := map[string]bool{}
	for _, name := range b.chosen {
		if err := ctx.Err(); err != nil {
			return err
		}
		m := b.mods.byName[name]
		if err := b.addModule(target, m, firmware); err != nil {
			return err
		}
	}
	b.stats.Modules = len(b.chosen)
	for name, data := range b.mods.tables(b.chosen) {
		b.add(target+name, 0o644, data)
	}
	if b.options.Firmware {
		return b.addFirmware(slices.Sorted(maps.Keys(firmware)))
	}
	return nil
}

func (b *builder) add(name string, perm uint32, data []byte) {
	b.files[name] = source{size: int64(len(data)), perm: perm, open: func() ([]byte, error) { return data, nil }}
}

// addModule notes a module's file and the firmware that it names. The file is expanded twice, now and when it is written: that costs
// less than holding all of them.
func (b *builder) addModule(target string, m *module, firmware map[string]bool) error {
	data, err := b.mods.read(m)
	if err != nil {
		return err
	}
	if b.options.Firmware {
		names, err := firmwareOf(data)
		if err != nil {
			return fmt.Errorf("read module %s: %w", m.file, err)
		}
		for _, name := range names {
			firmware[name] = true
		}
	}
	b.files[target+m.plain()] = source{size: int64(len(data)), perm: 0o644, open: func() ([]byte, error) { return b.mods.read(m) }}
	return nil
}

// write writes the archive.
func (b *builder) write(ctx context.Context, w io.Writer) error {
	progress := b.options.Progress
	if progress == nil {
		progress = func(int64, int64) {}
	}
	var done, total int64
	for _, s := range b.files {
		total += s.size
	}
	archive := cpio.NewWriter(w)
	made := map[string]bool{}
	for _, dir := range dirs {
		if err := archive.Dir(dir, 0o755); err != nil {
			return err
		}
		made[dir] = true
	}
	if err := archive.CharDevice("dev/console", 0o600, 5, 1); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := writeParents(archive, name, made); err != nil {
			return err
		}
		s := b.files[name]
		data, err := s.open()
		if err != nil {
			return err
		}
		if err := archive.File(name, s.perm, data); err != nil {
			return err
		}
		done += int64(len(data))
		progress(done, total)
	}
	return archive.Close()
}

// writeParents writes the directories above name that are not there yet.
func writeParents(archive *cpio.Writer, name string, made map[string]bool) error {
	dir := path.Dir(name)
	if dir == "." || made[dir] {
		return nil
	}
	if err := writeParents(archive, dir, made); err != nil {
		return err
	}
	made[dir] = true
	return archive.Dir(dir, 0o755)
}

// normal gives the form of a module's name in which "-" and "_" are one.
func normal(name string) string { return strings.ReplaceAll(name, "-", "_") }
