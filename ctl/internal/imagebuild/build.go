// Package imagebuild makes a squashfs image of a running machine, a directory, a tarball or a virtual disk. mksquashfs does the packing;
// this package finds the root, hides what must not get into an image behind an overlay (the source is never written), and lets nothing
// half-written appear under the output's name. Only ltspctl uses it.
package imagebuild

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
)

// Options say what to build.
type Options struct {
	// Source is a directory ("/" for this machine), a tar file (also compressed), a virtual disk (raw, qcow2, vmdk) or a squashfs.
	Source string
	Output string // the squashfs to write
	// Excludes are mksquashfs patterns; nil means DefaultExcludes. Params are further arguments of mksquashfs.
	Excludes []string
	Params   []string
	// KeepUsers leaves accounts, logs and fstab as they are.
	KeepUsers bool
	// FullSpeed runs without nice and ionice.
	FullSpeed bool
	// LockWait bounds the wait for a package manager that is at work in the source; 0 means 5 minutes.
	LockWait time.Duration
	// Progress, if not nil, is told each step's name and how far mksquashfs is (0 to 100, or -1 if it can't be said).
	Progress func(step string, percent int)
}

// Result tells what was built.
type Result struct {
	Path      string
	SizeBytes int64
}

// Errors that can be tested for.
var (
	ErrSource = errors.New("the source cannot be made into an image")
	ErrRoot   = errors.New("building an image needs root; run this with sudo")
)

// Build makes the image. It needs root, except for a source that is a squashfs already.
func Build(ctx context.Context, o Options) (Result, error) {
	o = withDefaults(o)
	if err := o.check(); err != nil {
		return Result{}, err
	}
	if err := atomicfile.Replaceable(o.Output); err != nil {
		return Result{}, err
	}
	temp, err := os.MkdirTemp(filepath.Dir(o.Output), ".ltspctl-build-")
	if err != nil {
		return Result{}, fmt.Errorf("make room for the image: %w", err)
	}
	packed := filepath.Join(temp, "image")
	err = onOwnThread(func() error { return build(ctx, o, temp, packed) })
	if err == nil {
		err = publish(packed, o.Output)
	}
	if err := errors.Join(err, removeAll(temp)); err != nil {
		return Result{}, err
	}
	info, err := os.Stat(o.Output)
	if err != nil {
		return Result{}, err
	}
	return Result{Path: o.Output, SizeBytes: info.Size()}, nil
}

func withDefaults(o Options) Options {
	if o.Excludes == nil {
		o.Excludes = DefaultExcludes()
	}
	if o.LockWait == 0 {
		o.LockWait = 5 * time.Minute
	}
	if o.Progress == nil {
		o.Progress = func(string, int) {}
	}
	return o
}

func (o Options) check() error {
	if o.Source == "" || o.Output == "" {
		return errors.New("source and output must be named")
	}
	info, err := os.Stat(filepath.Dir(o.Output))
	if err != nil {
		return fmt.Errorf("output directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("output directory %s is no directory", filepath.Dir(o.Output))
	}
	return nil
}

// build finds the root in the source and packs it. It runs on a thread of its own, whose mounts nobody else sees and which the kernel
// undoes when the thread or the process ends, however that happens.
func build(ctx context.Context, o Options, temp, packed string) error {
	kind, err := detect(o.Source)
	if err != nil {
		return err
	}
	if kind == kindSquashfs {
		o.Progress("copying the squashfs", -1)
		return copyFile(ctx, o.Source, packed)
	}
	if os.Geteuid() != 0 {
		return ErrRoot
	}
	if err := privateMounts(); err != nil {
		return err
	}
	root, release, err := openSource(ctx, kind, o, temp)
	if err != nil {
		return err
	}
	defer release()
	o.Excludes = append(slices.Clip(o.Excludes), within(root, temp, o.Output)...)
	if !o.KeepUsers {
		o.Progress("leaving out users and secrets", -1)
		if root, err = overlay(root, temp); err != nil {
			return err
		}
		if err := cleanUp(root); err != nil {
			return err
		}
	}
	o.Progress("packing", 0)
	return pack(ctx, root, packed, o, func(percent int) { o.Progress("packing", percent) })
}

// within returns patterns for those of the paths that lie below root: an image does not contain its own making.
func within(root string, paths ...string) []string {
	var patterns []string
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			continue
		}
		if rel, err := filepath.Rel(root, abs); err == nil && filepath.IsLocal(rel) && rel != "." {
			patterns = append(patterns, rel)
		}
	}
	return patterns
}

// onOwnThread runs f on an OS thread that ends with it.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread and its mount namespace end with this goroutine
		done <- f()
	}()
	return <-done
}

// privateMounts gives the calling thread a mount namespace of its own.
func privateMounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return nil
}

// publish makes the finished image durable under its name.
func publish(packed, output string) error {
	f, err := os.OpenFile(packed, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	if err := os.Chmod(packed, 0o644); err != nil {
		return err
	}
	if err := os.Rename(packed, output); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(output))
}

// removeAll removes the temporary directory. What was mounted in it is visible to the build's thread only, which has ended.
func removeAll(temp string) error {
	if err := os.RemoveAll(temp); err != nil {
		return fmt.Errorf("remove temporary files: %w", err)
	}
	return nil
}
