//go:build component

package sqmeta_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/encoder"
	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// everything fills the tree with every kind of inode and of trouble.
func (tr *tree) everything() {
	for i := range 300 {
		tr.write(fmt.Sprintf("etc/d%d/f%d", i%7, i), tr.content(tr.rnd.IntN(9000)))
	}
	for i := range 20 {
		tr.write(fmt.Sprintf("usr/lib/big%d", i), tr.content(100_000+tr.rnd.IntN(400_000)))
	}
	b := tr.content(300_000)
	for _, name := range []string{"dup/a", "dup/b", "usr/dup"} {
		tr.write(name, b)
		tr.write(name+".tail", b[:777])
		tr.write(name+".block", b[:131072])
	}
	tr.write("empty", nil)
	for _, n := range []int{1, 4095, 4096, 4097, 131071, 131072, 131073, 1 << 20} {
		tr.write("sizes/"+strconv.Itoa(n), tr.content(n))
		tr.write("zeros/"+strconv.Itoa(n), make([]byte, n))
	}
	tr.sparse("sparse/hole", 3<<20, 1<<20, 3<<20-5)
	tr.sparse("sparse/all", 5<<20+1)
	tr.links()
	tr.special()
	tr.names()
}

// sparse makes a file with single bytes at some places.
func (tr *tree) sparse(name string, size int64, at ...int64) {
	tr.write(name, nil)
	f, err := os.OpenFile(tr.path(name), os.O_RDWR, 0)
	if err != nil {
		tr.t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		tr.t.Fatal(err)
	}
	for _, p := range at {
		if _, err := f.WriteAt([]byte{1}, p); err != nil {
			tr.t.Fatal(err)
		}
	}
}

func (tr *tree) must(err error) {
	tr.t.Helper()
	if err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *tree) links() {
	tr.write("links/a", tr.content(200_000))
	tr.must(os.Link(tr.path("links/a"), tr.path("links/b")))
	tr.must(os.Link(tr.path("links/a"), tr.path("a-link")))
	tr.must(os.Link(tr.path("etc/d1/f1"), tr.path("zz/f1")))
	tr.must(os.Symlink("../etc", tr.path("links/s")))
	tr.must(os.Symlink(strings.Repeat("x/", 2000), tr.path("links/long")))
	tr.must(os.Link(tr.path("links/s"), tr.path("links/s2")))
}

func (tr *tree) special() {
	for i, mode := range []uint32{unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK} {
		for k := range 3 {
			name := tr.path(fmt.Sprintf("dev/%d-%d", i, k))
			tr.must(unix.Mknod(name, mode|0o600, int(unix.Mkdev(uint32(8+i), uint32(300*k)))))
			tr.must(os.Lchown(name, 1000*i, 70000+k))
			if k == 2 {
				tr.must(unix.Lsetxattr(name, "trusted.x", []byte("y"), 0))
				tr.must(os.Link(name, name+"-link"))
			}
		}
	}
	for i := range 40 {
		name := tr.path(fmt.Sprintf("xattr/%d/f", i))
		tr.write(fmt.Sprintf("xattr/%d/f", i), tr.content(10))
		tr.must(unix.Lsetxattr(name, "user.a", fmt.Appendf(nil, "value %d", i%13), 0))
		if i%3 == 0 {
			tr.must(unix.Lsetxattr(name, "security.long", bytes.Repeat([]byte{byte(i % 4)}, 1500), 0))
			tr.must(unix.Lsetxattr(tr.path(fmt.Sprintf("xattr/%d", i)), "user.dir", nil, 0))
		}
	}
	tr.must(os.Symlink("x", tr.path("xattr/s")))
	tr.must(unix.Lsetxattr(tr.path("xattr/s"), "trusted.x", []byte("y"), 0))
	tr.must(os.Chmod(tr.path("etc/d1"), 0o1777|os.ModeSetgid))
}

// names makes directories that need several headers and an index, and names of any bytes.
func (tr *tree) names() {
	for i := range 3000 {
		tr.write(fmt.Sprintf("many/%s%d", strings.Repeat("long-name-", i%20), i), nil)
	}
	for i := range 257 {
		tr.must(os.MkdirAll(tr.path(fmt.Sprintf("dirs/%d/x", i)), 0o750))
	}
	for c := 1; c < 256; c++ {
		if c != '/' && c != '.' {
			tr.write("odd/"+string([]byte{byte(c)}), []byte{byte(c)})
		}
	}
	tr.write("odd/"+strings.Repeat("\xff", 255), nil)
	tr.must(os.MkdirAll(tr.path("none/at/all"), 0o700))
}

// compress gives the encoder of an image; for what the encoder room has none, one that compresses nothing.
func compress(t *testing.T, m *sqmeta.Meta, level int) sqmeta.Compress {
	s := encoder.Settings{Compressor: m.Compressor(), Name: "zstd-1.5.5", Level: level, BlockSize: m.BlockSize()}
	switch m.Compressor() {
	case squashfs.Zstd:
	case squashfs.Gzip:
		s.Name, s.WindowBits = "zlib", 15
	default:
		return func(dst, src []byte) ([]byte, bool, error) { return append(dst, src...), false, nil }
	}
	e, err := encoder.New(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e.Metadata
}

const (
	predicted = 1
	verbatim  = 3
)

// TestMksquashfs packs one tree in every way that mksquashfs has. The level, which is slow at its default, does not matter to most.
func TestMksquashfs(t *testing.T) {
	tr := newTree(t, 1)
	tr.everything()
	sorted := tr.t.TempDir() + "/sort"
	tr.must(os.WriteFile(sorted, []byte("usr 5\netc/d3 7\ndup/b 9\n"), 0o644))
	tests := map[string]struct {
		args  string
		level int
		form  byte
	}{
		"zstd":      {"-comp zstd", 15, predicted},
		"zstd 3":    {"-comp zstd -Xcompression-level 3", 3, predicted},
		"gzip":      {"-comp gzip", 9, predicted},
		"gzip 5":    {"-comp gzip -Xcompression-level 5", 5, predicted},
		"xz":        {"-comp xz", 0, predicted},
		"xz opt":    {"-comp xz -Xbcj x86 -Xdict-size 50%", 0, predicted},
		"lz4":       {"-comp lz4", 0, predicted},
		"lz4 hc":    {"-comp lz4 -Xhc", 0, predicted},
		"other":     {"-comp zstd -Xcompression-level 4", 3, predicted},
		"nothing":   {"-comp zstd -Xcompression-level 3 -noI -noD -noF -noX -noId", 3, predicted},
		"noI":       {"-comp zstd -Xcompression-level 3 -noI", 3, predicted},
		"noId":      {"-comp zstd -Xcompression-level 3 -noId", 3, predicted},
		"noF":       {"-comp zstd -Xcompression-level 3 -noF", 3, predicted},
		"noX":       {"-comp zstd -Xcompression-level 3 -noX", 3, predicted},
		"noD":       {"-comp gzip -noD", 9, predicted},
		"fragments": {"-comp zstd -Xcompression-level 3 -no-fragments", 3, predicted},
		"tails":     {"-comp zstd -Xcompression-level 3 -always-use-fragments", 3, predicted},
		"exports":   {"-comp zstd -Xcompression-level 3 -no-exports", 3, predicted},
		"xattrs":    {"-comp zstd -Xcompression-level 3 -no-xattrs", 3, predicted},
		"dups":      {"-comp zstd -Xcompression-level 3 -no-duplicates", 3, predicted},
		"links":     {"-comp zstd -Xcompression-level 3 -no-hardlinks", 3, predicted},
		"root":      {"-comp zstd -Xcompression-level 3 -all-root", 3, predicted},
		"nopad":     {"-comp zstd -Xcompression-level 3 -nopad", 3, predicted},
		"sparse":    {"-comp zstd -Xcompression-level 3 -no-sparse", 3, predicted},
		"time":      {"-comp zstd -Xcompression-level 3 -all-time 5", 3, predicted},
		"4k":        {"-comp zstd -Xcompression-level 3 -b 4K", 3, predicted},
		"16k tails": {"-comp zstd -Xcompression-level 3 -b 16K -tailends", 3, predicted},
		"1M":        {"-comp gzip -b 1M", 9, predicted},
		"sort":      {"-comp zstd -Xcompression-level 3 -sort " + sorted, 3, predicted},
		"one cpu":   {"-comp zstd -Xcompression-level 3 -processors 1", 3, predicted},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tr := &tree{t: t, root: tr.root}
			img := tr.image(strings.Fields(test.args)...)
			m := parse(t, img)
			enc := compress(t, m, test.level)
			form := roundTrip(t, m, img, enc)
			if form != test.form {
				_, err := m.Columns()
				t.Errorf("form %d, want %d: %v", form, test.form, err)
			}
			tr.checkMap(m, img)
			logMisses(t, m)
		})
	}
}

// TestUnknownCompressor packs with compressors that nobody here can expand.
func TestUnknownCompressor(t *testing.T) {
	tr := newTree(t, 6)
	tr.random(100)
	for _, comp := range []string{"lzo", "lzma"} {
		img := tr.image("-comp", comp)
		if _, err := sqmeta.Parse(bytes.NewReader(img), int64(len(img))); !errors.Is(err, squashfs.ErrCompressor) {
			t.Errorf("%s: %v", comp, err)
		}
	}
}

// logMisses tells how many bytes the columns take that are empty when all goes as foreseen.
func logMisses(t *testing.T, m *sqmeta.Meta) {
	cols, err := m.Columns()
	if err != nil {
		return
	}
	for _, c := range cols {
		switch c.Name {
		case "xattrs", "children", "tailed", "same", "starts", "flushes", "fragment starts", "holes", "tails", "numbers", "links", "parents":
			if len(c.Data) > 0 {
				t.Logf("%s: %d bytes: %x", c.Name, len(c.Data), c.Data[:min(len(c.Data), 60)])
			}
		}
	}
}

// roundTrip rebuilds img from each form of columns, checks that what comes out is parsed to the same map, and tells the best form.
func roundTrip(t *testing.T, m *sqmeta.Meta, img []byte, enc sqmeta.Compress) byte {
	t.Helper()
	cols, err := m.RawColumns(enc)
	if err != nil {
		t.Fatal(err)
	}
	best, err := sqmeta.Best(m, enc)
	if err != nil {
		t.Fatal(err)
	}
	for _, cols := range [][]sqmeta.Column{cols, m.Verbatim(), best} {
		im, err := sqmeta.Rebuild(cols, enc)
		if err != nil {
			t.Fatal(err)
		}
		same(t, img, im)
		again, err := im.Meta(sqmeta.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if a, b := fmt.Sprint(again.Blocks(), again.Files()), fmt.Sprint(m.Blocks(), m.Files()); a != b {
			t.Error("the rebuilt image has another map")
		}
	}
	return best[0].Data[0]
}
