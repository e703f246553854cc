package initrd

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Compression is how the archive is packed.
type Compression int

const (
	// Auto is Zstd19 if the kernel's configuration in the image says that it can (CONFIG_RD_ZSTD), else Gzip.
	Auto Compression = iota
	// Zstd19 is the zstd program at level 19: smallest and fast to unpack, slow to make.
	Zstd19
	// Gzip is understood by every kernel.
	Gzip
	// None leaves the archive as it is.
	None
)

// decide turns Auto into a method.
func (c Compression) decide(image fs.FS, m *modules) Compression {
	if c != Auto {
		return c
	}
	release := m.dir[strings.LastIndexByte(m.dir, '/')+1:]
	for _, name := range []string{"boot/config-" + release, m.dir + "/config"} {
		config, err := readLimited(image, name, maxTable)
		if err != nil {
			continue
		}
		if bytes.Contains(config, []byte("\nCONFIG_RD_ZSTD=y\n")) {
			return Zstd19
		}
		return Gzip
	}
	return Gzip
}

// zstdWindow is the window of level 19; Linux takes up to 128 MiB for an initramfs (ZSTD_WINDOWSIZE_MAX in lib/decompress_unzstd.c).
const zstdWindow = 8 << 20

// newCompressor gives a writer whose Close ends the compressed stream, and its name.
func newCompressor(ctx context.Context, c Compression, program string, w io.Writer) (io.WriteCloser, string, error) {
	switch c {
	case None:
		return nopCloser{w}, "none", nil
	case Gzip:
		zw, err := gzip.NewWriterLevel(w, gzip.BestCompression)
		return zw, "gzip -9", err
	}
	if program == "" {
		program = "zstd"
	}
	if found, err := exec.LookPath(program); err == nil {
		zw, err := startZstd(ctx, found, w)
		return zw, "zstd -19", err
	}
	zw, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow))
	return zw, "zstd (built in)", err
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// errCompressorGone: the zstd program does not read on; its own message comes with Close.
var errCompressorGone = errors.New("zstd has ended early")

// zstdProcess is the zstd program as a writer. One thread, so that the output depends on nothing but the input.
type zstdProcess struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	buf    *bufio.Writer
	stderr bytes.Buffer
}

func startZstd(ctx context.Context, program string, w io.Writer) (*zstdProcess, error) {
	z := &zstdProcess{cmd: exec.CommandContext(ctx, program, "-19", "--single-thread", "-q", "-c", "-")}
	z.cmd.Stdout, z.cmd.Stderr = w, &z.stderr
	var err error
	if z.in, err = z.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	z.buf = bufio.NewWriterSize(z.in, 1<<16)
	if err := z.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start zstd: %w", err)
	}
	return z, nil
}

func (z *zstdProcess) Write(b []byte) (int, error) {
	n, err := z.buf.Write(b)
	if err != nil {
		err = fmt.Errorf("%w: %v", errCompressorGone, err)
	}
	return n, err
}

// Close ends the input and waits for the program.
func (z *zstdProcess) Close() error {
	flushErr := z.buf.Flush()
	closeErr := z.in.Close()
	if err := z.cmd.Wait(); err != nil {
		return fmt.Errorf("compress with zstd: %w: %s", err, bytes.TrimSpace(z.stderr.Bytes()))
	}
	return errors.Join(flushErr, closeErr)
}

// countingWriter counts what passes.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// pad appends zero bytes up to a multiple of four: Linux skips them, and an uncompressed archive that is appended to an initrd must
// begin there (init/initramfs.c).
func (c *countingWriter) pad() error {
	_, err := c.Write(make([]byte, -c.n&3))
	return err
}
