package testimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// KernelTree is an unpacked kernel package.
type KernelTree struct {
	Root    string // directory that the package was unpacked into
	Release string // of the kernel, as uname -r says
	Image   string // path of vmlinuz
	Modules string // directory with modules.dep
}

// Kernel downloads the kernel package of config.Flavour that the machine's archives offer now, unpacks it into the cache and
// makes modules.dep. Nothing is installed. When the package lists of this machine are missing or old, fresh ones are fetched
// into the cache, so the machine's own stay as they are.
func Kernel(ctx context.Context, config Config) (KernelTree, error) {
	c, err := config.withDefaults()
	if err != nil {
		return KernelTree{}, err
	}
	codename, err := hostRelease("/etc/os-release")
	if err != nil {
		return KernelTree{}, err
	}
	root := filepath.Join(c.CacheDir, fmt.Sprintf("kernel-%s-%s-v%d", codename, c.Flavour, formatVersion))
	if err := c.once(ctx, root, func() error { return c.fetchKernel(ctx, root) }); err != nil {
		return KernelTree{}, fmt.Errorf("kernel %s: %w", c.Flavour, err)
	}
	tree, err := inspectKernel(root)
	if err != nil {
		return KernelTree{}, fmt.Errorf("kernel %s: %w", c.Flavour, err)
	}
	return tree, nil
}

func (c Config) fetchKernel(ctx context.Context, result string) error {
	work, err := workDir(result)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }() // what stays is removed by the next builder
	c.Log("fetching the kernel package of flavour %s", c.Flavour)
	archive, err := c.downloadKernel(ctx, work, nil)
	if err != nil {
		c.Log("with the machine's package lists: %v; fetching fresh lists", err)
		if archive, err = c.downloadWithFreshLists(ctx, work); err != nil {
			return err
		}
	}
	root := filepath.Join(work, "root")
	if err := c.run(exec.CommandContext(ctx, "dpkg-deb", "-x", archive, root)); err != nil {
		return err
	}
	if err := linkLib(root); err != nil {
		return err
	}
	tree, err := inspectKernel(root)
	if err != nil {
		return err
	}
	if err := c.run(exec.CommandContext(ctx, "depmod", "-b", root, tree.Release)); err != nil {
		return err
	}
	return os.Rename(root, result)
}

// downloadKernel fetches the package that the metapackage of the flavour depends on. It returns the path of the archive.
func (c Config) downloadKernel(ctx context.Context, dir string, options []string) (string, error) {
	meta := "linux-image-" + c.Flavour
	out, err := exec.CommandContext(ctx, "apt-cache", slices.Concat(options, []string{"depends", "--important", meta})...).Output()
	if err != nil {
		return "", fmt.Errorf("apt-cache depends %s: %w", meta, err)
	}
	pkg, err := dependency(string(out))
	if err != nil {
		return "", fmt.Errorf("%s: %w", meta, err)
	}
	cmd := exec.CommandContext(ctx, "apt-get", slices.Concat(options, []string{"-o", "APT::Sandbox::User=root", "download", pkg})...)
	cmd.Dir = dir
	if err := c.run(cmd); err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(dir, pkg+"_*.deb"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("apt-get download %s left %d archives: %w", pkg, len(found), errors.Join(err, os.ErrNotExist))
	}
	return found[0], nil
}

// downloadWithFreshLists does the same with package lists of its own, in dir.
func (c Config) downloadWithFreshLists(ctx context.Context, dir string) (string, error) {
	for _, sub := range []string{"lists", "cache"} {
		if err := os.MkdirAll(filepath.Join(dir, sub, "partial"), 0o755); err != nil {
			return "", err
		}
	}
	options := []string{
		"-o", "Dir::Etc=" + c.AptDir,
		"-o", "Dir::State::lists=" + filepath.Join(dir, "lists"),
		"-o", "Dir::Cache=" + filepath.Join(dir, "cache"),
		"-o", "APT::Sandbox::User=root",
		"-o", "APT::Update::Post-Invoke-Success::=", "-o", "APT::Get::List-Cleanup=0",
	}
	if err := c.run(exec.CommandContext(ctx, "apt-get", slices.Concat(options, []string{"update"})...)); err != nil {
		return "", err
	}
	return c.downloadKernel(ctx, dir, options)
}

// dependency returns the kernel package in the output of `apt-cache depends`.
func dependency(output string) (string, error) {
	for line := range strings.Lines(output) {
		key, value, found := strings.Cut(strings.TrimSpace(line), ": ")
		if found && key == "Depends" && strings.HasPrefix(value, "linux-image-") {
			return value, nil
		}
	}
	return "", fmt.Errorf("no kernel package in %q", output)
}

// linkLib makes lib point into usr where a package knows only the merged layout, because depmod looks into lib.
func linkLib(root string) error {
	if exists(filepath.Join(root, "lib")) || !exists(filepath.Join(root, "usr/lib")) {
		return nil
	}
	return os.Symlink("usr/lib", filepath.Join(root, "lib"))
}

// inspectKernel finds the one kernel in an unpacked package.
func inspectKernel(root string) (KernelTree, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return KernelTree{}, fmt.Errorf("%s holds %d kernels instead of one", root, len(images))
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	tree := KernelTree{Root: root, Release: release, Image: images[0], Modules: filepath.Join(root, "lib/modules", release)}
	if !exists(tree.Modules) {
		return KernelTree{}, fmt.Errorf("%s holds no modules for kernel %s", root, release)
	}
	return tree, nil
}
