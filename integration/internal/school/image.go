package school

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testimage"
)

// Image builds a small real client image, or takes it from the cache, and returns the path of its squashfs.
func (s *School) Image(ctx context.Context) (string, error) {
	root, err := testimage.Build(ctx, testimage.Config{CacheDir: s.Cache, Log: s.Log, Packages: s.packages})
	if err != nil {
		return "", err
	}
	return s.pack(ctx, root)
}

// Update is the next version of Image: a third of its programs and libraries, and all of systemd, were built anew and have grown, and an
// application was added. How much that one has is said in bytes; they have no pattern.
func (s *School) Update(ctx context.Context, application int64) (string, error) {
	root, err := testimage.Build(ctx, testimage.Config{CacheDir: s.Cache, Log: s.Log, Packages: s.packages})
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("%s-update%s-%d", filepath.Base(root), updating, application)
	if file := s.packed(name); exists(file) {
		s.Log("image: %s from the cache", filepath.Base(file))
		return file, nil
	}
	dir := filepath.Join(s.Dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	s.Log("image: changing %s", filepath.Base(root))
	if err := testimage.Unpack(ctx, root, dir); err != nil {
		return "", err
	}
	if err := update(dir, application); err != nil {
		return "", fmt.Errorf("update the image: %w", err)
	}
	return s.pack(ctx, dir)
}

// updating is part of the name of cached images; raise it when update makes other changes.
const updating = "1"

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// packing is part of the name of cached images; raise it when `ltspctl image build` makes other images of the same root.
const packing = "1"

// packed is the cached image of a root.
func (s *School) packed(root string) string {
	return filepath.Join(s.Cache, ImageName+"-"+packing+"-"+root+".squashfs")
}

// pack runs `ltspctl image build` on a root, once per root. Light compression: the image is for one evening.
func (s *School) pack(ctx context.Context, root string) (string, error) {
	file := s.packed(filepath.Base(root))
	if exists(file) {
		s.Log("image: %s from the cache", filepath.Base(file))
		return file, nil
	}
	s.Log("image: packing %s", filepath.Base(root))
	err := s.ctlShowing(ctx, "image", "build", root, "--name", ImageName, "--to", file, "--full-speed",
		"--mksquashfs-param=-Xcompression-level", "--mksquashfs-param=3")
	return file, err
}

// Publish publishes a squashfs to the channel, and the boot loaders of the distribution.
func (s *School) Publish(ctx context.Context, file string) error {
	if err := s.ctlShowing(ctx, "image", "publish-bootloaders"); err != nil {
		return err
	}
	return s.publish(ctx, file)
}

// PublishUpdate publishes a squashfs to the channel as a delta from one that is published.
func (s *School) PublishUpdate(ctx context.Context, file, base string) error {
	return s.publish(ctx, file, "--base", base)
}

func (s *School) publish(ctx context.Context, file string, flags ...string) error {
	args := []string{"image", "publish", file, "--name", ImageName, "--channel", Channel,
		"--agent", filepath.Join(s.Bin, "ltsp-agent"), "--initrd-cache", filepath.Join(s.Cache, "initrd")}
	return s.ctlShowing(ctx, append(args, flags...)...)
}
