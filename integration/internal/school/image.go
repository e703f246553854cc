package school

import (
	"context"
	"os"
	"path/filepath"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testimage"
)

// Image builds a small real client image, or takes it from the cache, and returns the path of its squashfs.
func (s *School) Image(ctx context.Context) (string, error) {
	root, err := testimage.Build(ctx, testimage.Config{CacheDir: s.Cache, Log: s.Log})
	if err != nil {
		return "", err
	}
	return s.pack(ctx, root)
}

// packing is part of the name of cached images; raise it when `ltspctl image build` makes other images of the same root.
const packing = "1"

// pack runs `ltspctl image build` on a root, once per root. Light compression: the image is for one evening.
func (s *School) pack(ctx context.Context, root string) (string, error) {
	file := filepath.Join(s.Cache, ImageName+"-"+packing+"-"+filepath.Base(root)+".squashfs")
	if _, err := os.Stat(file); err == nil {
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
	return s.ctlShowing(ctx, "image", "publish", file, "--name", ImageName, "--channel", Channel,
		"--agent", filepath.Join(s.Bin, "ltsp-agent"), "--initrd-cache", filepath.Join(s.Cache, "initrd"))
}
