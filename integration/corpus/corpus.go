// Package corpus builds the squashfs images that deltas are measured on: five successive versions of one real Debian root, made
// from the package archives that this machine itself uses, and kept in a cache. The versions are
//
//	v1  the release as its last point release left it
//	w   v1 and a week's security updates: libraries and tools, no kernel and no browser
//	v2  v1 and all security and stable updates: new kernel, old one purged, new browser
//	v3  v2 and new applications
//	v4  v3 and configuration edits, a user, and a wallpaper that does not compress
//
// Two variants exist: "desktop", a school desktop of 2.2 GB, and "small", a minimal root for continuous integration. Archives
// move on, so the bytes differ from build to build; what one build made stays in the cache until its recipe changes.
//
// Building needs root and mounts file systems in namespaces of its own. Nothing of the product is imported.
package corpus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Image names one image of a variant.
type Image struct {
	Version    string // "v1", "w", "v2", "v3" or "v4"
	Compressor string // "zstd" or "gzip"
}

func (i Image) String() string { return i.Version + " " + i.Compressor }

// Record describes a finished image; it lies beside it as JSON.
type Record struct {
	Key    string    `json:"key"`    // of the recipe and of the image that it was made from
	SHA256 string    `json:"sha256"` // of the image, hexadecimal
	Size   int64     `json:"size"`   // of the image, in bytes
	Built  time.Time `json:"built"`
}

// Config says where the corpus is kept.
type Config struct {
	CacheDir string // made when missing
	// Log receives progress, one line per call; nil discards it.
	Log func(format string, args ...any)
	// Now tells the time of a build; nil is time.Now.
	Now func() time.Time
}

// Path is where the image lies when it has been built: CACHE/VARIANT/COMPRESSOR/VERSION.squashfs. Beside it are its Record
// (.json) and the packages of its root with their versions (.packages).
func (c Config) Path(v Variant, i Image) string {
	return filepath.Join(c.CacheDir, v.Name, i.Compressor, i.Version+".squashfs")
}

// Build makes those of images, in the order given, that the cache does not have, with what they are made from, and returns the
// records of all. Builders of the same variant, also in other processes, wait for each other. Killed builders leave no
// unfinished image under its name; the next one removes their work and begins where they had finished an image.
func Build(ctx context.Context, config Config, v Variant, images ...Image) ([]Record, error) {
	b, err := newBuilder(config, v)
	if err != nil {
		return nil, fmt.Errorf("corpus: %w", err)
	}
	records := make([]Record, 0, len(images))
	for _, image := range images {
		record, err := b.ensure(ctx, image)
		if err != nil {
			return nil, fmt.Errorf("corpus %s: %s: %w", v.Name, image, err)
		}
		records = append(records, record)
	}
	return records, nil
}

func newBuilder(config Config, v Variant) (*builder, error) {
	if config.Log == nil {
		config.Log = func(string, ...any) {}
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	abs, err := filepath.Abs(config.CacheDir) // it ends up in commands that run elsewhere
	if err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	config.CacheDir = abs
	return &builder{Config: config, variant: v}, nil
}

// builder makes the images of one variant.
type builder struct {
	Config
	variant Variant
}

// ensure returns the record of image and makes it first when the cache has none of its key.
func (b *builder) ensure(ctx context.Context, image Image) (Record, error) {
	step, err := b.variant.step(image)
	if err != nil {
		return Record{}, err
	}
	var base Record
	if step.base != nil {
		if base, err = b.ensure(ctx, *step.base); err != nil {
			return Record{}, err
		}
	}
	key := b.variant.key(step, base.SHA256)
	if record, ok := b.cached(image, key); ok {
		return record, nil
	}
	if err := os.MkdirAll(filepath.Dir(b.Path(b.variant, image)), 0o755); err != nil {
		return Record{}, fmt.Errorf("cache directory: %w", err)
	}
	unlock, err := b.lock(ctx)
	if err != nil {
		return Record{}, err
	}
	defer unlock()
	if record, ok := b.cached(image, key); ok {
		return record, nil // another builder has finished meanwhile
	}
	if os.Geteuid() != 0 {
		return Record{}, errors.New("building a root file system needs root: run this as root")
	}
	return b.make(ctx, image, step, key)
}

// cached returns the record of an image that was finished under key.
func (b *builder) cached(image Image, key string) (Record, bool) {
	path := b.Path(b.variant, image)
	content, err := os.ReadFile(path + ".json")
	if err != nil {
		return Record{}, false
	}
	var record Record
	if json.Unmarshal(content, &record) != nil || record.Key != key {
		return Record{}, false
	}
	info, err := os.Stat(path)
	return record, err == nil && info.Size() == record.Size
}

// make builds an image in a work directory and moves it to its place. The caller holds the lock.
func (b *builder) make(ctx context.Context, image Image, s step, key string) (Record, error) {
	begin := b.Now()
	b.Log("%s %s: building", b.variant.Name, image)
	work, err := b.workDir()
	if err != nil {
		return Record{}, err
	}
	defer func() { _ = os.RemoveAll(work) }() // what stays is removed by the next builder
	if err := b.runStep(ctx, work, s); err != nil {
		return Record{}, err
	}
	made := filepath.Join(work, imageFile)
	record := Record{Key: key, Built: b.Now().UTC()}
	if record.SHA256, record.Size, err = hashFile(made); err != nil {
		return Record{}, err
	}
	if err := b.publish(work, b.Path(b.variant, image), record); err != nil {
		return Record{}, err
	}
	b.Log("%s %s: %d bytes after %.0f s", b.variant.Name, image, record.Size, b.Now().Sub(begin).Seconds())
	return record, nil
}

// publish moves an image and what belongs to it to its place. The record comes last: an image without one is not used.
func (b *builder) publish(work, path string, record Record) error {
	content, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return err
	}
	written := filepath.Join(work, "record.json")
	if err := os.WriteFile(written, append(content, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.Remove(path + ".json"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, move := range [][2]string{{imageFile, ""}, {packagesFile, ".packages"}, {"record.json", ".json"}} {
		if err := moveFile(filepath.Join(work, move[0]), path+move[1]); err != nil {
			return fmt.Errorf("keep %s: %w", path, err)
		}
	}
	return nil
}

// moveFile renames a file after its bytes have reached the disk.
func moveFile(from, to string) error {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func hashFile(path string) (sum string, size int64, err error) {
	file, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	hash := sha256.New()
	if size, err = io.Copy(hash, file); err != nil {
		return "", 0, fmt.Errorf("hash %s: %w", path, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), size, nil
}
