package school

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
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

// pack runs `ltspctl image build` on a root, once per content of the root and of ltspctl.
func (s *School) pack(ctx context.Context, root string) (string, error) {
	key, err := cacheKey(root, filepath.Join(s.Bin, "ltspctl"))
	if err != nil {
		return "", err
	}
	file := filepath.Join(s.Cache, ImageName+"-"+key+".squashfs")
	if _, err := os.Stat(file); err == nil {
		s.Log("image: %s from the cache", filepath.Base(file))
		return file, nil
	}
	s.Log("image: packing %s", filepath.Base(root))
	_, err = s.Ctl(ctx, "image", "build", root, "--name", ImageName, "--to", file, "--quiet")
	return file, err
}

// cacheKey names a file by size and time of the source and the hash of the tool, in 16 hex digits.
func cacheKey(source, tool string) (string, error) {
	h := sha256.New()
	info, err := os.Stat(source)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%s %d %d\n", source, info.Size(), info.ModTime().UnixNano())
	f, err := os.Open(tool)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// Publish publishes a squashfs to the channel, and the boot loaders of the distribution.
func (s *School) Publish(ctx context.Context, file string) error {
	if _, err := s.Ctl(ctx, "image", "publish-bootloaders"); err != nil {
		return err
	}
	_, err := s.Ctl(ctx, "image", "publish", file, "--name", ImageName, "--channel", Channel,
		"--agent", filepath.Join(s.Bin, "ltsp-agent"), "--initrd-cache", filepath.Join(s.Cache, "initrd"))
	return err
}
