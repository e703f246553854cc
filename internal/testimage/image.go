// Package testimage builds a small but real Debian root for tests and the demo: mmdebstrap's minbase with systemd, udev and
// the distribution's kernel, from the package archives that this machine itself uses. The result is kept in a cache. It also
// unpacks a distribution kernel alone. It does not import package testing and nothing of the product.
//
// The root is made for a serial console on ttyS0 that logs root in without a password. It must never be used for anything but
// tests.
package testimage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Flavours of Debian's kernel packages for amd64.
const (
	Cloud = "cloud-amd64" // small, virtual hardware only: virtio, no e1000
	Stock = "amd64"       // all drivers
)

// formatVersion is part of the cache key: raise it when the same configuration makes another root.
const formatVersion = 1

// Config says what to build and where to keep it.
type Config struct {
	CacheDir string   // made when missing; empty: DefaultCacheDir
	Flavour  string   // of the kernel; empty: Cloud
	Packages []string // added to the ones that the root has anyway
	AptDir   string   // apt's configuration; empty: /etc/apt
	// Log receives progress; nil discards it.
	Log func(format string, args ...any)
}

// DefaultCacheDir is "ltsp-fleet" in the user's cache directory, or in the one for temporary files when there is none.
func DefaultCacheDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "ltsp-fleet")
}

// Missing returns the Debian packages that Build and Kernel need and this machine lacks, nil when there are none.
func Missing() []string {
	var missing []string
	for _, tool := range []struct{ program, pkg string }{{"mmdebstrap", "mmdebstrap"}, {"depmod", "kmod"}, {"dpkg-deb", "dpkg"}, {"apt-get", "apt"}, {"tar", "tar"}} {
		if _, err := exec.LookPath(tool.program); err != nil {
			missing = append(missing, tool.pkg)
		}
	}
	return missing
}

func (c Config) withDefaults() (Config, error) {
	if c.CacheDir == "" {
		c.CacheDir = DefaultCacheDir()
	}
	if c.Flavour == "" {
		c.Flavour = Cloud
	}
	if c.Flavour != Cloud && c.Flavour != Stock {
		return c, fmt.Errorf("kernel flavour %q: want %s or %s", c.Flavour, Cloud, Stock)
	}
	if c.AptDir == "" {
		c.AptDir = "/etc/apt"
	}
	if c.Log == nil {
		c.Log = func(string, ...any) {}
	}
	if missing := Missing(); missing != nil {
		return c, fmt.Errorf("building a test image needs packages that are not installed: run apt-get install %s", strings.Join(missing, " "))
	}
	if runtime.GOARCH != "amd64" {
		return c, fmt.Errorf("test images are built for amd64 on amd64, this machine is %s", runtime.GOARCH)
	}
	// The cache path ends up in commands that other programs parse.
	abs, err := filepath.Abs(c.CacheDir)
	if err != nil {
		return c, fmt.Errorf("cache directory: %w", err)
	}
	c.CacheDir = abs
	if err := os.MkdirAll(c.CacheDir, 0o755); err != nil {
		return c, fmt.Errorf("cache directory: %w", err)
	}
	return c, nil
}

// packages is the sorted list of packages on top of minbase.
func (c Config) packages() []string {
	list := append([]string{"systemd-sysv", "udev", "kmod", "iproute2", "linux-image-" + c.Flavour}, c.Packages...)
	slices.Sort(list)
	return slices.Compact(list)
}

// key names the result of this configuration in the cache. Package versions are not in it: a cached root stays until the
// cache is cleared.
func (c Config) key(codename string) string {
	hash := sha256.New()
	fmt.Fprintln(hash, formatVersion, codename, c.Flavour, strings.Join(c.packages(), ","))
	fmt.Fprint(hash, setupScript, strings.Join(excludedPaths, ","))
	return fmt.Sprintf("%s-%s-%s", codename, c.Flavour, hex.EncodeToString(hash.Sum(nil))[:12])
}

// Build returns the path of a tar archive of the root, which is made on the first call. It needs root. Builders of the same
// root, also in other processes, wait for each other.
func Build(ctx context.Context, config Config) (string, error) {
	c, err := config.withDefaults()
	if err != nil {
		return "", err
	}
	codename, err := hostRelease("/etc/os-release")
	if err != nil {
		return "", err
	}
	result := filepath.Join(c.CacheDir, "root-"+c.key(codename)+".tar")
	err = c.once(ctx, result, func() error {
		if os.Geteuid() != 0 {
			return errors.New("building a test image needs root: run this as root")
		}
		begin := time.Now()
		c.Log("building a Debian %s root with %s (about a minute)", codename, strings.Join(c.packages(), " "))
		if err := c.debootstrap(ctx, codename, result); err != nil {
			return err
		}
		info, err := os.Stat(result)
		if err != nil {
			return err
		}
		c.Log("root built in %.0f s: %s, %d MB", time.Since(begin).Seconds(), result, info.Size()/1e6)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("test image: %w", err)
	}
	return result, nil
}

// hostRelease returns the Debian code name of this machine ("bookworm").
func hostRelease(osRelease string) (string, error) {
	content, err := os.ReadFile(osRelease)
	if err != nil {
		return "", fmt.Errorf("release of this machine: %w", err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(content)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		fields[key] = strings.Trim(value, `"'`)
	}
	if fields["ID"] != "debian" || fields["VERSION_CODENAME"] == "" {
		return "", fmt.Errorf("test images are built from the archives of a Debian machine, this one is %q", fields["PRETTY_NAME"])
	}
	return fields["VERSION_CODENAME"], nil
}
