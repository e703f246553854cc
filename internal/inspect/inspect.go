// Package inspect tells whether a squashfs image can be netbooted, before anything of it is uploaded: it finds the kernel, its
// modules, init and the architecture, and refuses with one clear reason. It changes nothing and starts nothing.
package inspect

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// Options narrow what is accepted. The zero value accepts every bootable image.
type Options struct {
	// Arch is the architecture that the image must have, in Go's words ("amd64", "arm64"). Empty: any that the kernel says.
	Arch string
	// Kernels are further path patterns (path.Match) for the kernel, tried before the built-in ones.
	Kernels []string
	// Deep also expands every block of the image, which finds damage anywhere but takes a few seconds for each GB.
	Deep bool
	// Progress is called while a deep inspection runs, with bytes of the file; nil is allowed.
	Progress func(done, total int64)
}

// Report is what an accepted image is.
type Report struct {
	// SizeBytes is the file's length; Superblock its head.
	SizeBytes  int64
	Superblock squashfs.Superblock
	// Arch is the kernel's architecture in Go's words.
	Arch string
	// Kernel is the path of the kernel in the image, without symbolic links resolved; KernelRelease its `uname -r`.
	Kernel        string
	KernelRelease string
	// ModuleDir is the directory of the kernel's modules in the image.
	ModuleDir string
	// Init is the path of init in the image.
	Init string
	// OSID, OSVersion and OSName are ID, VERSION_ID and PRETTY_NAME of os-release; empty if it says nothing.
	OSID, OSVersion, OSName string
	// Warnings are findings that do not keep the image from booting, one sentence each.
	Warnings []string
}

// Inspect reads the image of size bytes in r. An image that cannot boot is refused with an *Error; other errors come from r or ctx.
func Inspect(ctx context.Context, r io.ReaderAt, size int64, o Options) (*Report, error) {
	image, err := squashfs.Open(r, size)
	if err != nil {
		return nil, squashfsError(err)
	}
	if err := checkBlocks(ctx, image, o); err != nil {
		return nil, squashfsError(err)
	}
	rep, err := inspectTree(image, image.Superblock().Compressor.String(), o)
	if err != nil {
		return nil, squashfsError(err)
	}
	rep.SizeBytes, rep.Superblock = size, image.Superblock()
	return rep, ctx.Err()
}

// inspectTree looks into the tree of an image; compressor is what its squashfs is compressed with.
func inspectTree(image fs.FS, compressor string, o Options) (*Report, error) {
	rep := &Report{}
	k, err := findKernel(image, o.Kernels)
	if err != nil {
		return nil, err
	}
	rep.Kernel, rep.KernelRelease, rep.Arch, rep.ModuleDir = k.path, k.release, k.arch, k.moduleDir
	if o.Arch != "" && o.Arch != k.arch {
		return nil, refuse(ErrWrongArch, "choose an image of that architecture", "the kernel %s is for %s, wanted is %s", k.path, k.arch, o.Arch)
	}
	if rep.Init, err = findInit(image, k.arch); err != nil {
		return nil, err
	}
	if rep.Warnings, err = checkDrivers(image, k, compressor); err != nil {
		return nil, err
	}
	rep.readOSRelease(image)
	return rep, nil
}

// findInit looks where the agent will look, and compares the program's machine with the kernel's.
func findInit(image fs.FS, arch string) (string, error) {
	const advice = "install systemd-sysv, or another init, in the source of the image"
	places := []string{"sbin/init", "usr/sbin/init", "lib/systemd/systemd", "usr/lib/systemd/systemd", "bin/init", "init"}
	var found []string
	for _, name := range places {
		fi, err := fs.Stat(image, name)
		if err != nil {
			continue
		}
		if !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0 {
			found = append(found, "/"+name+" is not executable")
			continue
		}
		machine, program, err := machineOf(image, name)
		if err != nil {
			return "", err
		}
		switch {
		case !program:
			found = append(found, "/"+name+" is no program")
		case machine == "" || machine == arch || arch == "amd64" && machine == "386":
			return name, nil
		default:
			return "", refuse(ErrWrongArch, "kernel and system must be for one architecture", "%s is for %s, the kernel for %s", name, machine, arch)
		}
	}
	if len(found) > 0 {
		return "", refuse(ErrNoInit, advice, "%s", strings.Join(found, ", "))
	}
	return "", refuse(ErrNoInit, advice, "none of /%s is there", strings.Join(places, ", /"))
}

// machineOf gives the architecture of an ELF program; empty for a script. program is false for anything else.
func machineOf(image fs.FS, name string) (machine string, program bool, err error) {
	f, err := image.Open(name)
	if err != nil {
		return "", false, err
	}
	defer func() { _ = f.Close() }() // only read
	var b [20]byte
	n, err := io.ReadFull(f, b[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", false, fmt.Errorf("read %s: %w", name, err)
	}
	if string(b[:2]) == "#!" {
		return "", true, nil
	}
	if n < len(b) || string(b[:4]) != "\x7fELF" {
		return "", false, nil
	}
	number := int(b[18]) | int(b[19])<<8
	if b[5] == 2 { // big-endian
		number = int(b[18])<<8 | int(b[19])
	}
	if name, ok := elfMachines[number]; ok {
		return name, true, nil
	}
	return fmt.Sprintf("ELF machine %d", number), true, nil
}

var elfMachines = map[int]string{3: "386", 8: "mips", 20: "ppc", 21: "ppc64", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64", 258: "loong64"}

const maxOSRelease = 64 << 10

// readOSRelease takes the names out of os-release(5). A file that is missing or strange leaves them empty.
func (rep *Report) readOSRelease(image fs.FS) {
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		f, err := image.Open(name)
		if err != nil {
			continue
		}
		defer func() { _ = f.Close() }() // only read
		for line := range lines(io.LimitReader(f, maxOSRelease)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			value = strings.Trim(value, `"'`)
			switch key {
			case "ID":
				rep.OSID = value
			case "VERSION_ID":
				rep.OSVersion = value
			case "PRETTY_NAME":
				rep.OSName = value
			}
		}
		return
	}
}

const maxLine = 1 << 20

// lines yields the lines of r until an error or a line that is longer than maxLine.
func lines(r io.Reader) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		s := bufio.NewScanner(r)
		s.Buffer(nil, maxLine)
		for s.Scan() {
			if !yield(s.Text()) {
				return
			}
		}
	}
}

// moduleName gives the name under which the kernel knows the module of a path: without ".ko" and compression, "_" for "-".
func moduleName(file string) string {
	name, _, ok := strings.Cut(path.Base(file), ".ko")
	if !ok {
		return ""
	}
	return strings.ReplaceAll(name, "-", "_")
}
