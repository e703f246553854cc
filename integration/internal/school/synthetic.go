package school

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
)

// SyntheticRelease is the kernel release that synthetic images claim.
const SyntheticRelease = "6.1.0-0-synthetic"

// Synthetic describes an image that ltspctl takes for bootable and that no PC could boot: quick to make, slow to transfer, because
// its bytes have no pattern.
type Synthetic struct {
	Seed     uint64 // images of one seed and size are equal
	Bytes    int64  // of files without a pattern
	NoKernel bool   // leaves the kernel out
	// Checked packs text by gzip, in which each block has a checksum, so that every flipped bit can be found. Noise is stored as it is.
	Checked bool
	// Text has words in the place of noise: they pack, and editions of them differ as versions of programs do.
	Text bool
	// Edition is how often the text was edited; the editions of one seed and size belong to one image.
	Edition int
	// Ballast is how many bytes without a pattern stay the same in all editions. Fresh is how many are in one edition only: about what the
	// delta to it has.
	Ballast, Fresh int64
	Compressor     string // of mksquashfs: zstd (if empty), gzip, xz, lz4, lzo
}

// MakeImage packs a synthetic image into the file to, by mksquashfs.
func (s *School) MakeImage(ctx context.Context, to string, o Synthetic) error {
	return o.Pack(ctx, s.Dir, to)
}

// Pack is MakeImage without a school. What it needs in between lies in a directory of its own below dir.
func (o Synthetic) Pack(ctx context.Context, dir, to string) error {
	tree, err := os.MkdirTemp(dir, "tree-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	if err := o.write(tree); err != nil {
		return fmt.Errorf("synthetic image: %w", err)
	}
	const packed = 1_750_000_000 // seconds since 1970: the same image at any time
	args := append([]string{tree, to, "-noappend", "-quiet", "-no-progress", "-all-time", fmt.Sprint(packed), "-mkfs-time", fmt.Sprint(packed + o.Edition)}, o.compressor()...)
	if out, err := exec.CommandContext(ctx, "mksquashfs", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("mksquashfs: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func (o Synthetic) compressor() []string {
	switch {
	case o.Compressor == "" && o.Checked:
		return []string{"-comp", "gzip", "-Xcompression-level", "1"}
	case o.Compressor == "" && o.Text:
		return []string{"-comp", "zstd"} // as images are usually packed
	case o.Compressor == "":
		return []string{"-comp", "zstd", "-Xcompression-level", "1"}
	}
	return []string{"-comp", o.Compressor}
}

// write makes the tree: what package inspect looks for, and noise in several files.
func (o Synthetic) write(tree string) error {
	modules := "usr/lib/modules/" + SyntheticRelease + "/"
	files := map[string][]byte{
		"usr/sbin/init":                    elfHeader(),
		"usr/lib/os-release":               []byte("ID=synthetic\nPRETTY_NAME=\"Synthetic\"\n"),
		modules + "modules.dep":            nil,
		modules + "modules.builtin":        []byte("kernel/nbd.ko\nkernel/squashfs.ko\nkernel/overlay.ko\nkernel/dm-verity.ko\nkernel/nfsv4.ko\n"),
		"boot/vmlinuz-" + SyntheticRelease: kernelHead(SyntheticRelease),
	}
	if o.NoKernel {
		delete(files, "boot/vmlinuz-"+SyntheticRelease)
	}
	for name, data := range files {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o755); err != nil {
			return err
		}
	}
	for _, link := range []string{"sbin", "lib"} {
		if err := os.Symlink("usr/"+link, filepath.Join(tree, link)); err != nil {
			return err
		}
	}
	if o.Text {
		return o.writeText(tree)
	}
	return o.writeNoise(tree)
}

// writeNoise writes files of at most 8 MiB that no compressor makes smaller.
func (o Synthetic) writeNoise(tree string) error {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], o.Seed)
	var noise io.Reader = rand.NewChaCha8(seed)
	if o.Checked {
		noise = hexReader{noise}
	}
	for i, left := 0, o.Bytes; left > 0; i++ {
		n := min(left, 8<<20)
		f, err := os.Create(filepath.Join(tree, fmt.Sprintf("noise%03d", i)))
		if err != nil {
			return err
		}
		_, err = io.CopyN(f, noise, n)
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// hexReader turns noise into text of twice the length.
type hexReader struct{ r io.Reader }

// Read implements io.Reader.
func (h hexReader) Read(p []byte) (int, error) {
	raw := make([]byte, (len(p)+1)/2)
	if _, err := io.ReadFull(h.r, raw); err != nil {
		return 0, err
	}
	return copy(p, hex.EncodeToString(raw)), nil
}

// kernelHead makes a file that begins as an x86-64 kernel does (Linux Documentation/arch/x86/boot.rst).
func kernelHead(release string) []byte {
	b := make([]byte, 64<<10)
	b[0x1fe], b[0x1ff] = 0x55, 0xaa
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f) // protocol version
	binary.LittleEndian.PutUint16(b[0x20e:], 0x700) // where the release is, less 0x200
	b[0x236] = 1                                    // XLF_KERNEL_64
	copy(b[0x900:], release+" (synthetic) #1")
	return b
}

// elfHeader makes a program for x86-64 without a single instruction: enough for whoever only asks for what machine it is.
func elfHeader() []byte {
	b := make([]byte, 64)
	copy(b, "\x7fELF\x02\x01\x01")
	b[16], b[18], b[20] = 2, 62, 1 // an executable, EM_X86_64, version 1
	b[52], b[54], b[58] = 64, 56, 64
	return b
}

// syntheticAgent writes a file that ltspctl takes for an agent, once.
func (s *School) syntheticAgent() (string, error) {
	path := s.path("synthetic-agent")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, os.WriteFile(path, elfHeader(), 0o755)
}
