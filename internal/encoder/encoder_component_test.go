//go:build component

package encoder_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/encoder"
	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// tree makes a directory of machine code, text, zeros, many small files, and data that hardly compresses, where the rule for storing raw
// decides: 48 / step files of it.
func tree(tb testing.TB, step int) string {
	tb.Helper()
	dir := tb.TempDir()
	write := func(name string, data []byte) {
		tb.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	read := func(name string) []byte {
		tb.Helper()
		data, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		return data
	}
	rnd := rand.New(rand.NewPCG(7, 8))
	code := read("/bin/bash")
	write("code", code)
	write("text", read("/usr/share/common-licenses/GPL-3"))
	write("zeros", append(make([]byte, 300<<10), 1))
	for i := 0; i < 48; i += step { // from random to a little less than random, block by block
		noise := make([]byte, 128<<10+i)
		for k := range noise {
			noise[k] = byte(rnd.Uint32())
			if rnd.IntN(40000) < i*i/4 {
				noise[k] = 0
			}
		}
		for range i % 7 {
			copy(noise[rnd.IntN(100<<10):], noise[:20+rnd.IntN(200)])
		}
		write(fmt.Sprintf("noise-%d", i), noise)
	}
	for i := range 400 / step {
		at := rnd.IntN(len(code) - 10000)
		write(fmt.Sprintf("small-file-%d", i), code[at:at+1+rnd.IntN(9000)])
	}
	return dir
}

func mksquashfs(tb testing.TB, dir, args string) *squashfs.FS {
	tb.Helper()
	img := filepath.Join(tb.TempDir(), "img")
	all := append([]string{dir, img, "-noappend", "-quiet", "-no-progress", "-mkfs-time", "0"}, strings.Fields(args)...)
	if out, err := exec.CommandContext(tb.Context(), "mksquashfs", all...).CombinedOutput(); err != nil {
		tb.Fatalf("mksquashfs %s: %v\n%s", args, err, out)
	}
	file, err := os.Open(img)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { file.Close() })
	st, err := file.Stat()
	if err != nil {
		tb.Fatal(err)
	}
	fs, err := squashfs.Open(file, st.Size())
	if err != nil {
		tb.Fatal(err)
	}
	return fs
}

var variants = []struct{ args, settings string }{
	{"-comp zstd", "zstd-1.5.5:15/131072"},
	{"-comp zstd -Xcompression-level 1", "zstd-1.5.5:1/131072"},
	{"-comp zstd -Xcompression-level 3", "zstd-1.5.5:3/131072"},
	{"-comp zstd -Xcompression-level 12 -b 64K", "zstd-1.5.5:12/65536"},
	{"-comp zstd -Xcompression-level 19", "zstd-1.5.5:19/131072"},
	{"-comp zstd -Xcompression-level 22", "zstd-1.5.5:22/131072"},
	{"-comp zstd -b 4K", "zstd-1.5.5:15/4096"},
	{"-comp zstd -b 32K", "zstd-1.5.5:15/32768"},
	{"-comp zstd -b 1M", "zstd-1.5.5:15/1048576"},
	{"-comp zstd -Xcompression-level 1 -b 1M -no-fragments", "zstd-1.5.5:1/1048576"},
	{"-comp zstd -Xcompression-level 22 -b 1M", "zstd-1.5.5:22/1048576"},
	{"-comp zstd -Xcompression-level 22 -b 4K -always-use-fragments", "zstd-1.5.5:22/4096"},
	{"-comp gzip", "zlib:9/131072"},
	{"-comp gzip -Xcompression-level 1", "zlib:1/131072"},
	{"-comp gzip -Xcompression-level 6", "zlib:6/131072"},
	{"-comp gzip -Xcompression-level 4 -b 256K", "zlib:4/262144"},
	{"-comp gzip -Xwindow-size 8", "zlib:9:8/131072"},
	{"-comp gzip -Xwindow-size 12 -Xcompression-level 6 -b 1M", "zlib:6:12/1048576"},
	{"-comp gzip -b 4K", "zlib:9/4096"},
	{"-comp gzip -b 1M", "zlib:9/1048576"},
	{"-comp gzip -Xstrategy default", "zlib:9/131072"}, // the default alone is not written down
	{"-comp gzip -Xstrategy filtered", "zlib:9:15:filtered/131072"},
	{"-comp gzip -Xstrategy huffman_only -Xcompression-level 6", "zlib:6:15:huffman_only/131072"},
	{"-comp gzip -Xstrategy run_length_encoded", "zlib:9:15:run_length_encoded/131072"},
	{"-comp gzip -Xstrategy fixed", "zlib:9:15:fixed/131072"},
	{"-comp gzip -Xstrategy default,filtered,huffman_only,run_length_encoded,fixed -Xcompression-level 5 -b 32K",
		"zlib:5:15:default+filtered+huffman_only+run_length_encoded+fixed/32768"},
}

func TestMakesTheBlocksOfMksquashfs(t *testing.T) {
	large, small := tree(t, 1), tree(t, 4)
	for _, v := range variants {
		t.Run(v.args, func(t *testing.T) {
			dir := small
			if strings.Contains(v.args, "-b 1M") || strings.Contains(v.args, "-b 256K") {
				dir = large // of blocks this long there would be too few
			}
			fs := mksquashfs(t, dir, v.args)
			s, exact, tried, err := encoder.Probe(t.Context(), fs, 8)
			if err != nil {
				t.Fatal(err)
			}
			if s.String() != v.settings || exact != tried || tried < 8 {
				t.Errorf("Probe = %s, %d of %d, want %s and all of 8 or more", s, exact, tried, v.settings)
			}
			packed, raw := compareBlocks(t, fs, s)
			t.Logf("%d compressed and %d raw blocks", packed, raw)
			if packed < 10 || raw < 1 {
				t.Errorf("%d compressed and %d raw blocks compared, want more of both", packed, raw)
			}
		})
	}
}

// compareBlocks encodes every block of the image, and gives how many of them are compressed and raw.
func compareBlocks(t *testing.T, fs *squashfs.FS, s encoder.Settings) (packed, raw int) {
	t.Helper()
	e, err := encoder.New(s)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	err = fs.Blocks(func(b squashfs.Block) error {
		encode := e.Block
		switch b.Kind {
		case squashfs.KindData, squashfs.KindFragment:
		case squashfs.KindInodes, squashfs.KindDirectories, squashfs.KindFragmentTable, squashfs.KindExportTable, squashfs.KindIDTable,
			squashfs.KindXattrTable, squashfs.KindXattrValues:
			encode = e.Metadata
		default:
			return nil
		}
		plain, err := fs.Expand(b)
		if err != nil {
			return err
		}
		stored := b
		stored.Raw = true
		want, err := fs.Expand(stored)
		if err != nil {
			return err
		}
		got, compressed, err := encode(nil, plain)
		if err != nil {
			return err
		}
		if compressed == b.Raw || !bytes.Equal(got, want) {
			t.Errorf("%s block at %d of %d bytes: %d bytes, compressed %t; want %d, %t", b.Kind, b.Offset, len(plain), len(got), compressed,
				len(want), !b.Raw)
		}
		if b.Raw {
			raw++
		} else {
			packed++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return packed, raw
}

func TestProbeRefusesOtherCompressors(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "text"), bytes.Repeat([]byte("squash "), 50000), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"-comp xz", "-comp lz4", "-comp zstd -noI -noD -noF -noX -noId"} {
		t.Run(args, func(t *testing.T) {
			if s, _, _, err := encoder.Probe(t.Context(), mksquashfs(t, dir, args), 4); !isNoEncoder(err) {
				t.Errorf("Probe = %s, error %v, want ErrNoEncoder", s, err)
			}
		})
	}
}

func BenchmarkRecompress(b *testing.B) {
	for _, args := range []string{"-comp zstd", "-comp zstd -Xcompression-level 3", "-comp zstd -Xcompression-level 22", "-comp gzip"} {
		b.Run(strings.ReplaceAll(args[6:], " ", "_"), func(b *testing.B) {
			fs := mksquashfs(b, "/usr/share/perl", args)
			s, _, _, err := encoder.Probe(b.Context(), fs, 1)
			if err != nil {
				b.Fatal(err)
			}
			var plain [][]byte
			total := 0
			if err := fs.Blocks(func(blk squashfs.Block) error {
				if blk.Raw || blk.Kind != squashfs.KindData && blk.Kind != squashfs.KindFragment {
					return nil
				}
				p, err := fs.Expand(blk)
				plain, total = append(plain, p), total+len(p)
				return err
			}); err != nil {
				b.Fatal(err)
			}
			e, err := encoder.New(s)
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			var out []byte
			rounds, start := 0, cpuSeconds(b)
			for b.Loop() {
				rounds++
				for _, p := range plain {
					if out, _, err = e.Block(out[:0], p); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(rounds)*float64(total)/1e6/(cpuSeconds(b)-start), "MB/cpu-s")
		})
	}
}

// cpuSeconds is what this process has used, in user and system mode.
func cpuSeconds(tb testing.TB) float64 {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
