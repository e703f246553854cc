package testimage

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// Variant writes to out a copy of the root archive base with files added: the next version of an image, cheaply. Keys are
// slash-separated paths relative to the root, values the contents; they belong to root with mode 0644. A path that base has
// already is refused, because programs differ in what they do with a name that comes twice.
func Variant(ctx context.Context, base, out string, files map[string]string) error {
	if err := variant(ctx, base, out, files); err != nil {
		return fmt.Errorf("variant of %s: %w", base, err)
	}
	return nil
}

func variant(ctx context.Context, base, out string, files map[string]string) error {
	dir, err := os.MkdirTemp(filepath.Dir(out), "variant-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := refuseKnown(base, files); err != nil {
		return err
	}
	copied := filepath.Join(dir, "root.tar")
	if err := copyFile(base, copied); err != nil {
		return err
	}
	tree := filepath.Join(dir, "tree")
	args := []string{"--append", "--file", copied, "--owner=0", "--group=0", "--numeric-owner", "--mode=0644", "--directory", tree}
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	for name, content := range files {
		target := filepath.Join(tree, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, []byte(content), 0o644); err != nil {
			return err
		}
		args = append(args, "./"+name)
	}
	if len(files) > 0 {
		if output, err := exec.CommandContext(ctx, "tar", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("tar: %w: %s", err, strings.TrimSpace(string(output)))
		}
	}
	return publish(copied, out)
}

// refuseKnown checks the names against each other and against the archive.
func refuseKnown(archive string, files map[string]string) error {
	for name := range files {
		if name != path.Clean(name) || !filepath.IsLocal(name) {
			return fmt.Errorf("%q is no clean relative path", name)
		}
	}
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	entries := tar.NewReader(file)
	for {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, known := files[strings.TrimPrefix(path.Clean(header.Name), "./")]; known {
			return fmt.Errorf("%s is in the archive already", header.Name)
		}
	}
}

// copyFile copies with the kernel's help where the file system shares blocks.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// Unpack extracts a root archive into dir, which must exist, with owners and modes. It needs root.
func Unpack(ctx context.Context, archive, dir string) error {
	cmd := exec.CommandContext(ctx, "tar", "--extract", "--preserve-permissions", "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "--file", archive, "--directory", dir)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", archive, err, strings.TrimSpace(string(output)))
	}
	return nil
}
