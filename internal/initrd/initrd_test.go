package initrd

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

func build(t *testing.T, image fs.FS, o Options) ([]byte, Stats) {
	t.Helper()
	o.KernelRelease, o.Agent = release, []byte("agent program")
	var b bytes.Buffer
	st, err := Build(t.Context(), image, o, &b)
	if err != nil {
		t.Fatal(err)
	}
	if int64(b.Len()) != st.Bytes || b.Len()%4 != 0 {
		t.Errorf("%d bytes, stats say %d", b.Len(), st.Bytes)
	}
	return b.Bytes(), st
}

// list reads an archive: for each name its mode and content.
func list(t *testing.T, b []byte) map[string]string {
	t.Helper()
	all := map[string]string{}
	field := func(i int) int {
		v, err := strconv.ParseUint(string(b[6+8*i:14+8*i]), 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		return int(v)
	}
	up := func(n int) int { return (n + 3) &^ 3 }
	for {
		if string(b[:6]) != "070701" {
			t.Fatalf("no header at %.20q", b)
		}
		name := string(b[110 : 110+field(11)-1])
		if name == "TRAILER!!!" {
			return all
		}
		size, mode := field(6), field(1)
		data := up(110 + field(11))
		all[name] = fmt.Sprintf("%o %s", mode, b[data:data+size])
		b = b[data+up(size):]
	}
}

func modulesIn(files map[string]string) []string {
	var all []string
	for name := range files {
		if strings.HasSuffix(name, ".ko") {
			all = append(all, strings.TrimPrefix(name, "lib/modules/"+release+"/"))
		}
	}
	slices.Sort(all)
	return all
}

var (
	schoolWant = []string{
		"kernel/drivers/block/nbd.ko", "kernel/drivers/md/dm-mod.ko", "kernel/drivers/md/dm-verity.ko",
		"kernel/drivers/net/ethernet/realtek/r8169.ko", "kernel/drivers/net/phy/libphy.ko", "kernel/drivers/net/phy/realtek.ko",
		"kernel/drivers/net/weak.ko", "kernel/fs/overlayfs/overlay.ko", "kernel/lib/reed_solomon/reed_solomon.ko",
	}
	fullWant = append([]string{
		"kernel/arch/x86/crypto/crc32c-fast.ko", "kernel/crypto/crc32c_generic.ko", "kernel/drivers/net/ethernet/chelsio/cxgb3.ko", "kernel/fs/ext4/ext4.ko",
	}, schoolWant...)
)

func TestContents(t *testing.T) {
	t.Parallel()
	for _, suffix := range []string{"", ".xz", ".zst", ".gz"} {
		for set, want := range map[Set][]string{Full: fullWant, School: schoolWant} {
			b, st := build(t, image(t, suffix), Options{Set: set, Compression: None})
			files := list(t, b)
			if diff := cmp.Diff(slices.Sorted(slices.Values(want)), modulesIn(files)); diff != "" {
				t.Errorf("%s, suffix %q (-want +got):\n%s", set, suffix, diff)
			}
			if st.Modules != len(want) || st.RawBytes != int64(len(b)) || st.Compressor != "none" {
				t.Errorf("%s: %+v", set, st)
			}
			if got := files["lib/modules/"+release+"/kernel/drivers/block/nbd.ko"]; got != "100644 "+string(ko("nbd")) {
				t.Errorf("suffix %q: the module is changed: %q", suffix, got)
			}
		}
	}
}

func TestLayoutAndTables(t *testing.T) {
	t.Parallel()
	b, _ := build(t, image(t, ".xz"), Options{Set: School, Compression: None})
	files := list(t, b)
	dir := "lib/modules/" + release + "/"
	want := map[string]string{
		"init":                  "100755 agent program",
		"dev":                   "40755 ",
		"dev/console":           "20600 ",
		"proc":                  "40755 ",
		"sys":                   "40755 ",
		"run":                   "40755 ",
		"ro":                    "40755 ",
		"rw":                    "40755 ",
		"newroot":               "40755 ",
		"ltsp":                  "40755 ",
		dir + "modules.alias":   "100644 alias pci:v000010ECd00008168sv*sd*bc*sc*i* r8169\n",
		dir + "modules.softdep": "100644 softdep r8169 pre: realtek\n",
		dir + "modules.weakdep": "100644 weakdep r8169 weak\n",
		dir + "modules.builtin": "100644 kernel/fs/squashfs/squashfs.ko\nkernel/crypto/sha256_generic.ko\n",
		dir + "modules.dep": `100644 kernel/drivers/md/dm-mod.ko:
kernel/drivers/md/dm-verity.ko: kernel/drivers/md/dm-mod.ko kernel/lib/reed_solomon/reed_solomon.ko
kernel/drivers/net/phy/libphy.ko:
kernel/drivers/block/nbd.ko:
kernel/fs/overlayfs/overlay.ko:
kernel/drivers/net/ethernet/realtek/r8169.ko: kernel/drivers/net/phy/libphy.ko
kernel/drivers/net/phy/realtek.ko: kernel/drivers/net/phy/libphy.ko
kernel/lib/reed_solomon/reed_solomon.ko:
kernel/drivers/net/weak.ko:
`,
	}
	for name, content := range want {
		if diff := cmp.Diff(content, files[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for name := range files {
		if want[name] == "" && !strings.HasSuffix(name, ".ko") && !strings.HasPrefix(files[name], "40755") {
			t.Errorf("unexpected %s", name)
		}
		if i := strings.LastIndexByte(name, '/'); i > 0 && files[name[:i]] != "40755 " {
			t.Errorf("%s has no directory", name)
		}
	}
}

func TestFirmware(t *testing.T) {
	t.Parallel()
	b, st := build(t, image(t, ".zst"), Options{Compression: None, Firmware: true})
	files := list(t, b)
	got := map[string]string{}
	for name, content := range files {
		if strings.HasPrefix(name, "lib/firmware/") && !strings.HasPrefix(content, "40755") {
			got[name] = content
		}
	}
	want := map[string]string{
		"lib/firmware/rtl_nic/a.fw":  "100644 firmware a",
		"lib/firmware/cxgb3/t3b.bin": "100644 firmware b",
		"lib/firmware/cxgb3/t3c.bin": "100644 firmware c",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if st.FirmwareFiles != 3 || !slices.Equal(st.MissingFirmware, []string{"rtl_nic/none.fw"}) {
		t.Errorf("%+v", st)
	}
}

func TestExtraModules(t *testing.T) {
	t.Parallel()
	b, _ := build(t, image(t, ""), Options{Set: School, Compression: None, ExtraModules: []string{"i915", "extra_nic", "squashfs"}})
	got := modulesIn(list(t, b))
	for _, want := range []string{"kernel/drivers/gpu/i915.ko", "kernel/drivers/gpu/drm.ko", "updates/dkms/extra-nic.ko"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing in %v", want, got)
		}
	}
	_, err := Build(t.Context(), image(t, ""), Options{KernelRelease: release, Agent: []byte("a"), ExtraModules: []string{"nosuch"}}, io.Discard)
	if !errors.Is(err, ErrMissingModule) || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("%v", err)
	}
}

func TestCompressions(t *testing.T) {
	t.Parallel()
	m := image(t, "")
	plain, _ := build(t, m, Options{Compression: None})
	none := t.TempDir() + "/no-zstd"
	for name, tt := range map[string]struct {
		o    Options
		want string
	}{
		"gzip":     {Options{Compression: Gzip}, "gzip -9"},
		"built in": {Options{Compression: Zstd19, ZstdProgram: none}, "zstd (built in)"},
		"auto":     {Options{ZstdProgram: none}, "zstd (built in)"},
	} {
		b, st := build(t, m, tt.o)
		again, _ := build(t, m, tt.o)
		if st.Compressor != tt.want || !bytes.Equal(b, again) {
			t.Errorf("%s: %s, same again: %v", name, st.Compressor, bytes.Equal(b, again))
		}
		if got := unpacked(t, b); !bytes.Equal(got, plain) || st.RawBytes != int64(len(plain)) {
			t.Errorf("%s: unpacks to %d bytes instead of %d", name, len(got), len(plain))
		}
	}
}

// unpacked undoes gzip or zstd; the padding behind the stream is not looked at.
func unpacked(t *testing.T, b []byte) []byte {
	t.Helper()
	var r io.Reader
	if b[0] == 0x1f {
		zr, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		zr.Multistream(false)
		r = zr
	} else {
		d, err := zstd.NewReader(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for len(b) > 0 { // the padding is at most three bytes
			if out, err := d.DecodeAll(b, nil); err == nil {
				return out
			}
			b = bytes.TrimSuffix(b, []byte{0})
		}
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAutoFollowsTheKernelsConfiguration(t *testing.T) {
	t.Parallel()
	for config, want := range map[string]Compression{"A=1\nCONFIG_RD_ZSTD=y\n": Zstd19, "A=1\n# CONFIG_RD_ZSTD is not set\n": Gzip, "": Gzip} {
		m := image(t, "")
		m["boot/config-"+release] = &fstest.MapFile{Data: []byte(config)}
		if config == "" {
			delete(m, "boot/config-"+release)
		}
		mods, err := readModules(m, release)
		if err != nil {
			t.Fatal(err)
		}
		if got := Auto.decide(m, mods); got != want {
			t.Errorf("%q: %v, want %v", config, got, want)
		}
	}
}

func TestBrokenZstd(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "zstd")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho no memory >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Build(t.Context(), image(t, ""), Options{KernelRelease: release, Agent: make([]byte, 1<<20), ZstdProgram: program}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "no memory") {
		t.Errorf("%v", err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	dir := "usr/lib/modules/" + release + "/"
	without := func(name string) fstest.MapFS {
		m := image(t, "")
		delete(m, dir+name)
		return m
	}
	tests := map[string]struct {
		image   fs.FS
		release string
		want    error
	}{
		"no modules.dep":     {without("modules.dep"), release, ErrNoModules},
		"another release":    {image(t, ""), "5.4.0", ErrNoModules},
		"release is a path":  {image(t, ""), "../../etc", ErrNoModules},
		"squashfs not there": {without("modules.builtin"), release, ErrMissingModule},
		"file not there":     {without("kernel/drivers/block/nbd.ko"), release, fs.ErrNotExist},
	}
	for name, tt := range tests {
		_, err := Build(t.Context(), tt.image, Options{KernelRelease: tt.release, Agent: []byte("a"), Compression: None}, io.Discard)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Build(ctx, image(t, ""), Options{KernelRelease: release, Agent: []byte("a")}, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for _, o := range []Options{{KernelRelease: release}, {Agent: []byte("a")}} {
		if _, err := Build(t.Context(), image(t, ""), o, io.Discard); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	last := int64(0)
	build(t, image(t, ".xz"), Options{Compression: None, Progress: func(done, total int64) {
		if done < last || done > total {
			t.Errorf("%d of %d after %d", done, total, last)
		}
		last = done
	}})
	if last == 0 {
		t.Error("no progress")
	}
}

func TestHugeDictionaryIsRefused(t *testing.T) {
	t.Parallel()
	b := packed(t, ".xz", []byte("module"))
	b[16] = 40 // 4 GiB
	m := image(t, ".xz")
	m["usr/lib/modules/"+release+"/kernel/drivers/block/nbd.ko.xz"].Data = b
	_, err := Build(t.Context(), m, Options{KernelRelease: release, Agent: []byte("a"), Compression: None}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "dictionary") {
		t.Errorf("%v", err)
	}
}

func FuzzTables(f *testing.F) {
	m := image(f, "")
	dir := "usr/lib/modules/" + release + "/"
	f.Add(m[dir+"modules.dep"].Data, m[dir+"modules.softdep"].Data, m[dir+"modules.alias"].Data)
	f.Add([]byte("/lib/modules/"+release+"/kernel/a.ko: /lib/modules/"+release+"/kernel/b.ko\n"), []byte("softdep a pre: a b"), []byte("alias [ a"))
	f.Add([]byte("../../../etc/x.ko:\n/abs.ko:\n"), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, dep, soft, alias []byte) {
		m := fstest.MapFS{dir + "modules.dep": {Data: dep}, dir + "modules.softdep": {Data: soft}, dir + "modules.alias": {Data: alias},
			dir + "modules.builtin": {Data: []byte("nbd.ko\nsquashfs.ko\noverlay.ko\n")}}
		mods, err := readModules(m, release)
		if err != nil {
			t.Fatal(err)
		}
		chosen, err := mods.choose(Full, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range chosen {
			if plain := mods.byName[name].plain(); !fs.ValidPath(strings.ToValidUTF8(plain, "?")) {
				t.Errorf("module %q leaves the directory: %q", name, plain)
			}
		}
		mods.tables(chosen)
	})
}

func FuzzFirmwareOf(f *testing.F) {
	f.Add(ko("r8169", "rtl_nic/a.fw"))
	f.Fuzz(func(t *testing.T, b []byte) {
		names, err := firmwareOf(b)
		for _, name := range names {
			if err != nil || !fs.ValidPath(name) {
				t.Errorf("%q, %v", name, err)
			}
		}
	})
}
