package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// casync cuts both images into chunks of its default sizes. Only the new image's index and the chunks that the old one has not
// cross the wire; requests for them are not counted.
type casync struct{}

func (casync) Name() string { return "casync" }

func (casync) Identity(ctx context.Context) (string, error) {
	return version(ctx, "casync", "--version")
}

func (casync) Run(ctx context.Context, p pair, dir string) (result, error) {
	store, missing := filepath.Join(dir, "store.castr"), filepath.Join(dir, "new.castr")
	index := filepath.Join(dir, "new.caibx")
	var r result
	// What the sender did for the old version is done already.
	if _, _, err := measure(ctx, dir, "casync", "make", "--store="+store, filepath.Join(dir, "old.caibx"), p.old); err != nil {
		return r, fmt.Errorf("chunks of the old image: %w", err)
	}
	before, err := filesBelow(store)
	if err != nil {
		return r, err
	}
	if r.Sender, _, err = measure(ctx, dir, "casync", "make", "--store="+store, index, p.new); err != nil {
		return r, fmt.Errorf("chunks of the new image: %w", err)
	}
	after, err := filesBelow(store)
	if err != nil {
		return r, err
	}
	if r.Wire, err = fileSize(index); err != nil {
		return r, err
	}
	for name, size := range after {
		if _, known := before[name]; known {
			continue
		}
		r.Wire += size
		if err := link(filepath.Join(store, name), filepath.Join(missing, name)); err != nil {
			return r, err
		}
	}
	if err := os.MkdirAll(missing, 0o755); err != nil { // there may be nothing new
		return r, err
	}
	r.Receiver, _, err = measure(ctx, dir, "casync", "extract", "--store="+missing, "--seed="+p.old, index, filepath.Join(dir, output))
	if err != nil {
		return r, fmt.Errorf("new image from old one and new chunks: %w", err)
	}
	return r, nil
}

func link(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.Link(from, to)
}

// filesBelow returns the sizes of all files below dir by their paths relative to it.
func filesBelow(dir string) (map[string]int64, error) {
	files := map[string]int64{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files[path] = info.Size()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("chunk store: %w", err)
	}
	return files, nil
}
