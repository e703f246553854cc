package inspect

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// kernelGlobs are where kernels lie, in groups: the first group with a usable kernel wins, and in it the newest by version. The
// links in the root and in /boot come first because an administrator sets them to choose a kernel. The last group is for live images.
var kernelGlobs = [][]string{
	{"vmlinuz", "boot/vmlinuz"},
	{"boot/vmlinuz-*", "boot/vmlinux-*", "boot/kernel-*", "boot/Image-*", "boot/Image", "lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz"},
	{"casper/vmlinuz*", "live/vmlinuz*", "isolinux/vmlinuz*", "images/pxeboot/vmlinuz", "boot/*/loader/linux"},
}

// kernel is one candidate.
type kernel struct {
	path      string
	release   string
	arch      string
	moduleDir string
}

// findKernel gives the kernel to boot. If none is usable, the error is about the best candidate.
func findKernel(image fs.FS, own []string) (kernel, error) {
	var firstErr error
	var tried []string
	for _, globs := range append([][]string{own}, kernelGlobs...) {
		for _, name := range candidates(image, globs) {
			k, err := readKernel(image, name)
			if err == nil {
				return k, nil
			}
			if _, refused := errors.AsType[*Error](err); !refused {
				return kernel{}, err
			}
			if firstErr == nil || errors.Is(firstErr, ErrKernelFormat) && errors.Is(err, ErrNoModules) {
				firstErr = err
			}
		}
		tried = append(tried, globs...)
	}
	if firstErr != nil {
		return kernel{}, firstErr
	}
	return kernel{}, refuse(ErrNoKernel, "install a kernel package, Debian's linux-image-amd64 for example, in the source of the image",
		"there is no %s", strings.Join(tried, ", "))
}

// candidates lists the files that match, the newest first.
func candidates(image fs.FS, globs []string) []string {
	var all []string
	for _, glob := range globs {
		found, err := fs.Glob(image, strings.TrimPrefix(glob, "/"))
		if err != nil {
			continue // a bad pattern of the caller matches nothing
		}
		for _, name := range found {
			if fi, err := fs.Stat(image, name); err == nil && fi.Mode().IsRegular() && !slices.Contains(all, name) && !notAKernel(name) {
				all = append(all, name)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b string) int { return compareVersions(sortKey(b), sortKey(a)) })
	return all
}

// notAKernel tells names that lie beside kernels but are something else.
func notAKernel(name string) bool {
	switch path.Ext(name) {
	case ".old", ".bak", ".hmac", ".sig", ".dpkg-tmp", ".dpkg-new":
		return true
	}
	return strings.Contains(name, "-rescue-")
}

// sortKey is the part of a path that tells the version.
func sortKey(name string) string {
	if strings.HasSuffix(name, "/vmlinuz") && strings.Contains(name, "modules/") {
		return path.Base(path.Dir(name))
	}
	_, version, _ := strings.Cut(path.Base(name), "-")
	return version
}

// compareVersions orders as sort -V does: runs of digits by value, the rest by bytes.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// readKernel reads a candidate's head and finds its modules.
func readKernel(image fs.FS, name string) (kernel, error) {
	k := kernel{path: name}
	f, err := image.Open(name)
	if err != nil {
		return k, err
	}
	defer func() { _ = f.Close() }() // only read
	if k.arch, k.release, err = kernelHead(f); err != nil {
		if errors.Is(err, errFormat) {
			return k, refuse(ErrKernelFormat, "a bzImage, an arm64 Image or an EFI zboot image is needed; a unified kernel image (UKI) is not one",
				"/%s", name)
		}
		return k, fmt.Errorf("read kernel /%s: %w", name, err)
	}
	if k.release == "" {
		k.release = sortKey(name)
	}
	for _, dir := range []string{"lib/modules", "usr/lib/modules"} {
		k.moduleDir = dir + "/" + k.release
		if _, err := fs.Stat(image, k.moduleDir+"/modules.dep"); err == nil {
			return k, nil
		}
	}
	k.moduleDir = "lib/modules/" + k.release
	if _, err := fs.Stat(image, k.moduleDir); err == nil {
		return k, refuse(ErrNoModules, "run \"depmod "+k.release+"\" in the source of the image",
			"/%s, the kernel's own, has no modules.dep", k.moduleDir)
	}
	return k, refuse(ErrNoModules, "install the kernel's package whole, or remove the kernel that has no modules",
		"/%s is release %s, but there is no /%s", name, k.release, k.moduleDir)
}

var errFormat = errors.New("no known kernel format")

const (
	kernelHeadLen = 0x400
	maxKernel     = 512 << 20 // expanded
	maxRelease    = 128
)

// kernelHead tells architecture and release of a kernel file; an empty release was not in the file.
func kernelHead(r io.Reader) (arch, release string, err error) {
	head := make([]byte, kernelHeadLen)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", "", err
	}
	head = head[:n]
	whole := io.MultiReader(bytes.NewReader(head), r)
	switch {
	case n == kernelHeadLen && string(head[0x202:0x206]) == "HdrS" && head[0x1fe] == 0x55 && head[0x1ff] == 0xaa:
		return bzImage(head, whole)
	case n > 0x40 && string(head[0x38:0x3c]) == "ARM\x64":
		release, err = banner(whole)
		return "arm64", release, err
	case n > 2 && head[0] == 0x1f && head[1] == 0x8b:
		return expanded(gunzip, whole)
	case n > 0x40 && string(head[:2]) == "MZ" && string(head[4:8]) == "zimg":
		return zboot(head, whole)
	}
	return "", "", errFormat
}

// bzImage reads the x86 boot protocol's header (Linux Documentation/arch/x86/boot.rst).
func bzImage(head []byte, whole io.Reader) (arch, release string, err error) {
	le := binary.LittleEndian
	arch = "386"
	if version := le.Uint16(head[0x206:]); version >= 0x20c && le.Uint16(head[0x236:])&1 != 0 { // XLF_KERNEL_64
		arch = "amd64"
	}
	at := int64(le.Uint16(head[0x20e:]))
	if at == 0 {
		return arch, "", nil
	}
	if _, err := io.CopyN(io.Discard, whole, at+0x200); err != nil {
		return "", "", errFormat
	}
	text := make([]byte, maxRelease)
	n, err := io.ReadFull(whole, text)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", "", err
	}
	release, _, _ = strings.Cut(string(text[:n]), " ")
	release, _, _ = strings.Cut(release, "\x00")
	return arch, checkRelease(release), nil
}

// checkRelease refuses what cannot be a directory name.
func checkRelease(s string) string {
	if len(s) >= maxRelease || strings.ContainsAny(s, "/\x00") || strings.HasPrefix(s, ".") {
		return ""
	}
	return s
}

// zboot reads the header of a compressed EFI kernel (Linux drivers/firmware/efi/libstub/zboot-header.S).
func zboot(head []byte, whole io.Reader) (arch, release string, err error) {
	le := binary.LittleEndian
	offset, size := int64(le.Uint32(head[8:])), int64(le.Uint32(head[12:]))
	if _, err := io.CopyN(io.Discard, whole, offset); err != nil {
		return "", "", errFormat
	}
	payload := io.LimitReader(whole, size)
	switch method, _, _ := strings.Cut(string(head[24:56]), "\x00"); method {
	case "gzip":
		return expanded(gunzip, payload)
	case "zstd":
		return expanded(unzstd, payload)
	}
	return "", "", errFormat
}

func gunzip(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }

func unzstd(r io.Reader) (io.Reader, error) {
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
}

// expanded reads a compressed arm64 Image.
func expanded(open func(io.Reader) (io.Reader, error), r io.Reader) (arch, release string, err error) {
	zr, err := open(r)
	if err != nil {
		return "", "", errFormat
	}
	head := make([]byte, 0x40)
	if _, err := io.ReadFull(zr, head); err != nil || string(head[0x38:0x3c]) != "ARM\x64" {
		return "", "", errFormat
	}
	release, err = banner(zr)
	return "arm64", release, err
}

// bannerPattern is how linux_banner begins; the format strings beside it have no digit there.
var bannerPattern = regexp.MustCompile(`Linux version ([0-9][^ \x00/]{0,127}) `)

// banner finds the kernel's release in its expanded code. Nothing found is an empty release.
func banner(r io.Reader) (string, error) {
	const window, overlap = 1 << 20, 256
	buf := make([]byte, 0, window+overlap)
	for total := 0; total < maxKernel; {
		n, err := io.ReadFull(r, buf[len(buf):len(buf)+window])
		total += n
		buf = buf[:len(buf)+n]
		if m := bannerPattern.FindSubmatch(buf); m != nil {
			return string(m[1]), nil
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		buf = append(buf[:0], buf[len(buf)-overlap:]...)
	}
	return "", nil
}
