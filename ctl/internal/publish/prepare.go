// Package publish turns a squashfs into a version: it inspects the image, makes the initrds from the image's own modules, cuts everything
// into chunks, and uploads what the controller lacks. It knows the controller only by the Store interface. Only ltspctl uses it.
package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/inspect"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// Options say how to make a version of an image file.
type Options struct {
	File         string // the squashfs
	Name         string // of the image
	Note, Source string // remarks
	Arch         string // wanted architecture; empty: any
	// Agent is the ltsp-agent binary that becomes the initrd's init; it must be for the image's architecture.
	Agent string
	// CacheDir keeps made initrds, which take long to compress; empty: no cache.
	CacheDir string
	// Base is a squashfs that the controller has as a version: the root file system then travels as a delta from it. Empty: as chunks.
	Base string
	// Shallow skips the check of every block of the image.
	Shallow bool
	// Step, if not nil, is told what begins. It returns who is told the progress in bytes (nil: nobody).
	Step func(what string) func(done, total int64)
}

// Prepare makes a version ready to be uploaded. Errors about the image are inspect.Error. The caller closes what it gets.
func Prepare(ctx context.Context, o Options) (*Prepared, error) {
	if err := manifest.CheckName(o.Name); err != nil {
		return nil, err
	}
	if o.Step == nil {
		o.Step = func(string) func(int64, int64) { return nil }
	}
	f, err := os.Open(o.File)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	p := &Prepared{close: []func() error{f.Close}}
	if err := p.fill(ctx, f, o); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Prepared) fill(ctx context.Context, f *os.File, o Options) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	size := info.Size()
	report, err := inspect.Inspect(ctx, f, size, inspect.Options{Arch: o.Arch, Deep: !o.Shallow, Progress: o.Step("checking the image")})
	if err != nil {
		return fmt.Errorf("%s: %w", o.File, err)
	}
	source := o.Source
	if source == "" {
		source = filepath.Base(o.File)
	}
	p.Draft = &manifest.Manifest{Kind: manifest.Image, Name: o.Name, Arch: report.Arch, Release: report.KernelRelease, OS: report.OSName, Note: o.Note, Source: source}
	if err := p.addDisk(ctx, f, size, o); err != nil {
		return err
	}
	image, err := squashfs.Open(f, size)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	if err := p.addKernel(ctx, image, report.Kernel); err != nil {
		return err
	}
	if err := p.addInitrds(ctx, image, report, o); err != nil {
		return err
	}
	if o.Base == "" {
		return nil
	}
	return p.addDelta(ctx, f, size, o)
}

// addDisk cuts the squashfs and computes the digest of its disk.
func (p *Prepared) addDisk(ctx context.Context, f io.ReaderAt, size int64, o Options) error {
	if err := p.add(ctx, manifest.Squashfs, f, size, chunk.CutSquashfs, o.Step("cutting it into chunks")); err != nil {
		return err
	}
	digest, err := verity.Compute(ctx, verity.Padded(f, size), verity.PaddedSize(uint64(size)), nil, 0)
	if err != nil {
		return fmt.Errorf("digest: %w", err)
	}
	p.Draft.Digest = digest
	return nil
}

// addKernel copies the kernel out of the image.
func (p *Prepared) addKernel(ctx context.Context, image *squashfs.FS, name string) error {
	in, err := image.Open(name)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	defer in.Close()
	err = p.addTemp(ctx, manifest.Kernel, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err
	})
	if a, ok := p.Draft.Artifact(manifest.Kernel); ok {
		a.Path = name // satellites take it from there
	}
	return err
}

// addTemp adds what fill writes as an artifact that lives in a temporary file until Close.
func (p *Prepared) addTemp(ctx context.Context, name string, fill func(io.Writer) error) error {
	f, err := os.CreateTemp("", "ltspctl-"+name+"-")
	if err != nil {
		return fmt.Errorf("artifact %s: %w", name, err)
	}
	p.close = append(p.close, f.Close)
	if err := os.Remove(f.Name()); err != nil { // the open file is all we need
		return fmt.Errorf("artifact %s: %w", name, err)
	}
	if err := fill(f); err != nil {
		return fmt.Errorf("artifact %s: %w", name, err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("artifact %s: %w", name, err)
	}
	return p.add(ctx, name, f, size, chunk.CutFixed, nil)
}
