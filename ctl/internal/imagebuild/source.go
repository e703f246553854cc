package imagebuild

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

type kind int

const (
	kindDirectory kind = iota
	kindTar
	kindDisk
	kindSquashfs
)

// tarSuffixes are the names of what tar(1) unpacks by itself.
var tarSuffixes = []string{".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst", ".tar.bz2", ".tar.lz4"}

// detect tells what a source is, by its content where that says it, else by its name.
func detect(source string) (kind, error) {
	info, err := os.Stat(source)
	if err != nil {
		return 0, fmt.Errorf("source: %w", err)
	}
	if info.IsDir() {
		return kindDirectory, nil
	}
	f, err := os.Open(source)
	if err != nil {
		return 0, fmt.Errorf("source: %w", err)
	}
	defer f.Close()
	head := make([]byte, 512)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("source %s: %w", source, err)
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("hsqs")):
		return kindSquashfs, nil
	case bytes.HasPrefix(head, []byte("QFI\xfb")), bytes.HasPrefix(head, []byte("KDMV")), bytes.HasPrefix(head, []byte("# Disk DescriptorFile")):
		return kindDisk, nil
	case slices.ContainsFunc(tarSuffixes, func(s string) bool { return strings.HasSuffix(source, s) }):
		return kindTar, nil
	case n == 512 && head[510] == 0x55 && head[511] == 0xaa:
		return kindDisk, nil
	case n > 262 && string(head[257:262]) == "ustar":
		return kindTar, nil
	}
	return 0, fmt.Errorf("%w: %s is no directory, tar file, virtual disk or squashfs", ErrSource, source)
}

// openSource returns a directory in which the source's root is visible, which must not be written, and what lets go of it.
func openSource(ctx context.Context, k kind, o Options, temp string) (root string, release func(), err error) {
	release = func() {}
	switch k {
	case kindTar:
		o.Progress("unpacking the tar file", -1)
		root, err = unpack(ctx, o.Source, temp)
	case kindDisk:
		o.Progress("opening the virtual disk", -1)
		root, err = mountDisk(ctx, o.Source, temp)
	default:
		root, release, err = lockDirectory(ctx, o)
	}
	if err != nil {
		return "", nil, err
	}
	if !hasRoot(root) {
		release()
		return "", nil, fmt.Errorf("%w: %s holds no operating system (no etc/os-release)", ErrSource, o.Source)
	}
	return root, release, nil
}

func lockDirectory(ctx context.Context, o Options) (string, func(), error) {
	root, err := filepath.Abs(o.Source)
	if err != nil {
		return "", nil, err
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.LockWait)
	defer cancel()
	unlock, err := lockDpkg(ctx, root, func() { o.Progress("waiting for the package manager", -1) })
	return root, unlock, err
}

// hasRoot tells whether a directory looks like the root of an operating system.
func hasRoot(dir string) bool {
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

func unpack(ctx context.Context, source, temp string) (string, error) {
	root := filepath.Join(temp, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", err
	}
	return root, command(ctx, "tar", "--extract", "--file", source, "--directory", root, "--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include=*", "--acls")
}

func command(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, name, args...)
	return err
}

func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var messages bytes.Buffer
	cmd.Stderr = &messages
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, lastLines(messages.String(), 3))
	}
	return out, nil
}

// partitionTable is what sfdisk --json prints, as far as it matters.
type partitionTable struct {
	Table struct {
		SectorSize int64 `json:"sectorsize"`
		Partitions []struct {
			Start int64 `json:"start"`
			Size  int64 `json:"size"`
		} `json:"partitions"`
	} `json:"partitiontable"`
}

// mountDisk mounts, read-only, the partition of a virtual disk that holds an operating system.
func mountDisk(ctx context.Context, source, temp string) (string, error) {
	raw, err := rawDisk(ctx, source, temp)
	if err != nil {
		return "", err
	}
	if _, err := exec.LookPath("sfdisk"); err != nil {
		return "", fmt.Errorf("%w: a virtual disk needs sfdisk; run: apt-get install fdisk", ErrSource)
	}
	text, err := output(ctx, "sfdisk", "--json", raw)
	if err != nil {
		return "", fmt.Errorf("%w: partition table: %w", ErrSource, err)
	}
	var table partitionTable
	if err := json.Unmarshal(text, &table); err != nil {
		return "", fmt.Errorf("partition table of %s: %w", source, err)
	}
	sector := table.Table.SectorSize
	if sector == 0 {
		sector = 512
	}
	mountpoint := filepath.Join(temp, "disk")
	if err := os.Mkdir(mountpoint, 0o755); err != nil {
		return "", err
	}
	for _, p := range table.Table.Partitions {
		options := fmt.Sprintf("ro,noload,loop,offset=%d,sizelimit=%d", p.Start*sector, p.Size*sector)
		if command(ctx, "mount", "-o", options, raw, mountpoint) != nil &&
			command(ctx, "mount", "-o", strings.Replace(options, "noload,", "", 1), raw, mountpoint) != nil {
			continue // swap, EFI, or a file system that this kernel does not know
		}
		if hasRoot(mountpoint) {
			return mountpoint, nil
		}
		if err := unix.Unmount(mountpoint, 0); err != nil {
			return "", fmt.Errorf("unmount %s: %w", mountpoint, err)
		}
	}
	return "", fmt.Errorf("%w: no partition of %s holds an operating system that can be mounted here (LVM and encrypted disks cannot)", ErrSource, source)
}

// rawDisk returns the disk itself if it is raw, else a converted copy.
func rawDisk(ctx context.Context, source, temp string) (string, error) {
	f, err := os.Open(source)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 4)
	if _, err := io.ReadFull(f, head); err != nil {
		return "", err
	}
	if !bytes.Equal(head, []byte("QFI\xfb")) && !bytes.Equal(head, []byte("KDMV")) && head[0] != '#' {
		return filepath.Abs(source)
	}
	if _, err := exec.LookPath("qemu-img"); err != nil {
		return "", fmt.Errorf("%w: a qcow2 or vmdk disk needs qemu-img; run: apt-get install qemu-utils", ErrSource)
	}
	raw := filepath.Join(temp, "disk.raw")
	return raw, command(ctx, "qemu-img", "convert", "-O", "raw", source, raw)
}

// overlay returns a writable view of root whose changes live in memory. File systems mounted below root that belong to
// the system (a separate /usr, /boot, /var) are part of the view.
func overlay(root, temp string) (string, error) {
	store := filepath.Join(temp, "overlay")
	merged := filepath.Join(temp, "merged")
	for _, dir := range []string{store, merged} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
	}
	if err := unix.Mount("tmpfs", store, "tmpfs", 0, "mode=0755"); err != nil {
		return "", fmt.Errorf("mount tmpfs: %w", err)
	}
	below, err := mountsBelow(root)
	if err != nil {
		return "", err
	}
	for i, lower := range append([]string{root}, below...) {
		upper, work := filepath.Join(store, fmt.Sprintf("up%d", i)), filepath.Join(store, fmt.Sprintf("work%d", i))
		for _, dir := range []string{upper, work} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return "", err
			}
		}
		target := filepath.Join(merged, strings.TrimPrefix(lower, root))
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", escapeOption(lower), escapeOption(upper), escapeOption(work))
		if err := unix.Mount("overlay", target, "overlay", 0, options); err != nil {
			return "", fmt.Errorf("mount an overlay over %s: %w", lower, err)
		}
	}
	return merged, nil
}

// escapeOption escapes what separates overlayfs's options and lower directories.
func escapeOption(path string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`, `:`, `\:`).Replace(path)
}

// systemTypes are file systems that parts of an operating system lie on.
var systemTypes = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "squashfs", "zfs", "overlay"}

func mountsBelow(root string) ([]string, error) {
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return parseMounts(string(text), root), nil
}

// parseMounts lists the mount points below root that hold parts of the system, the outer ones first. text is that of
// mountinfo (proc(5)).
func parseMounts(text, root string) []string {
	private := []string{"home", "root", "srv", "mnt", "media", "tmp", "run", "proc", "sys", "dev", "snap", "var/tmp", "var/snap"}
	prefix := strings.TrimSuffix(root, "/") + "/"
	var points []string
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		fields, types := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(types) == 0 || !slices.Contains(systemTypes, types[0]) {
			continue
		}
		point := unescapeMount(fields[4])
		rest, below := strings.CutPrefix(point, prefix)
		isPrivate := slices.ContainsFunc(private, func(p string) bool { return rest == p || strings.HasPrefix(rest, p+"/") })
		if below && rest != "" && !isPrivate && !slices.Contains(points, point) {
			points = append(points, point)
		}
	}
	slices.Sort(points)
	return points
}

// unescapeMount undoes the octal escapes of mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func copyFile(ctx context.Context, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, contextReader{ctx, in})
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}

// contextReader ends a copy when ctx does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
