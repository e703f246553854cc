package inspect

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io/fs"
	"maps"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// bzImageOf makes the head of an x86 kernel.
func bzImageOf(release string, amd64 bool) []byte {
	b := make([]byte, 0x1000)
	b[0x1fe], b[0x1ff] = 0x55, 0xaa
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint16(b[0x20e:], 0x700)
	if amd64 {
		b[0x236] = 1
	}
	copy(b[0x900:], release+" (build@host) #1 SMP")
	return b
}

// arm64Image makes an uncompressed arm64 kernel with its banner far inside.
func arm64Image(release string) []byte {
	b := make([]byte, 1<<20+4096)
	copy(b[0x38:], "ARM\x64")
	copy(b[0x1000:], "Linux version %s (%s)")
	copy(b[1<<20-8:], "Linux version "+release+" (build@host)")
	return b
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zbootOf(method string, payload []byte) []byte {
	b := make([]byte, 0x400)
	copy(b, "MZ\x00\x00zimg")
	binary.LittleEndian.PutUint32(b[8:], 0x400)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(payload)))
	copy(b[24:], method)
	return append(b, payload...)
}

func elf(machine byte) []byte {
	b := make([]byte, 64)
	copy(b, "\x7fELF\x02\x01\x01")
	b[18] = machine
	return b
}

func file(data []byte) *fstest.MapFile { return &fstest.MapFile{Data: data, Mode: 0o755} }
func link(target string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
}

// debian is a merged-usr system with two kernels; the link names the older one.
func debian() fstest.MapFS {
	m := fstest.MapFS{
		"lib":                         link("usr/lib"),
		"sbin":                        link("usr/sbin"),
		"boot/vmlinuz-6.1.0-9-amd64":  file(bzImageOf("6.1.0-9-amd64", true)),
		"boot/vmlinuz-6.1.0-56-amd64": file(bzImageOf("6.1.0-56-amd64", true)),
		"boot/config-6.1.0-56-amd64":  file([]byte("CONFIG_SQUASHFS_ZSTD=y\n# CONFIG_SQUASHFS_LZ4 is not set\n")),
		"usr/sbin/init":               link("../lib/systemd/systemd"),
		"usr/lib/systemd/systemd":     file(elf(62)),
		"usr/lib/os-release":          file([]byte("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\nVERSION_ID='12'\n")),
		"etc/os-release":              link("../usr/lib/os-release"),
	}
	for _, release := range []string{"6.1.0-9-amd64", "6.1.0-56-amd64"} {
		dir := "usr/lib/modules/" + release + "/"
		m[dir+"modules.dep"] = file([]byte("kernel/drivers/block/nbd.ko.xz:\nkernel/fs/overlayfs/overlay.ko: kernel/x.ko\nkernel/drivers/md/dm-verity.ko:\nkernel/fs/nfs/nfsv4.ko:\n"))
		m[dir+"modules.builtin"] = file([]byte("kernel/fs/squashfs/squashfs.ko\n"))
		m[dir+"kernel/drivers/block/nbd.ko.xz"] = file(nil)
		m[dir+"kernel/fs/overlayfs/overlay.ko"] = file(nil)
	}
	return m
}

func with(m fstest.MapFS, changes fstest.MapFS) fstest.MapFS {
	m = maps.Clone(m)
	for name, f := range changes {
		if f == nil {
			delete(m, name)
			continue
		}
		m[name] = f
	}
	return m
}

func TestReport(t *testing.T) {
	t.Parallel()
	got, err := inspectTree(debian(), "zstd", Options{Arch: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	want := &Report{
		Arch: "amd64", Kernel: "boot/vmlinuz-6.1.0-56-amd64", KernelRelease: "6.1.0-56-amd64", ModuleDir: "lib/modules/6.1.0-56-amd64",
		Init: "sbin/init", OSID: "debian", OSVersion: "12", OSName: "Debian GNU/Linux 12",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestKernelChoice(t *testing.T) {
	t.Parallel()
	const newest, older = "boot/vmlinuz-6.1.0-56-amd64", "boot/vmlinuz-6.1.0-9-amd64"
	tests := map[string]struct {
		change fstest.MapFS
		own    []string
		want   string
	}{
		"newest by version":           {want: newest},
		"the root's link first":       {change: fstest.MapFS{"vmlinuz": link(older)}, want: "vmlinuz"},
		"a dangling link is passed":   {change: fstest.MapFS{"vmlinuz": link("boot/nowhere")}, want: newest},
		"the caller's pattern first":  {own: []string{"/boot/vmlinuz-6.1.0-9*"}, want: older},
		"newest without its modules":  {change: fstest.MapFS{"usr/lib/modules/6.1.0-56-amd64/modules.dep": nil}, want: older},
		"newest is no kernel":         {change: fstest.MapFS{newest: file([]byte("text"))}, want: older},
		"rescue and old are no names": {change: fstest.MapFS{"boot/vmlinuz-9.9.9.old": file(bzImageOf("6.1.0-9-amd64", true)), "boot/vmlinuz-99-rescue-1": file(bzImageOf("6.1.0-9-amd64", true))}, want: newest},
		"Fedora's place":              {change: fstest.MapFS{newest: nil, older: nil, "usr/lib/modules/6.1.0-9-amd64/vmlinuz": file(bzImageOf("6.1.0-9-amd64", true))}, want: "lib/modules/6.1.0-9-amd64/vmlinuz"},
		"a name without version":      {change: fstest.MapFS{newest: nil, older: nil, "boot/vmlinuz-linux": file(bzImageOf("6.1.0-9-amd64", true))}, want: "boot/vmlinuz-linux"},
	}
	for name, tt := range tests {
		got, err := inspectTree(with(debian(), tt.change), "zstd", Options{Kernels: tt.own})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Kernel != tt.want {
			t.Errorf("%s: %s, want %s", name, got.Kernel, tt.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	const newest, older, mods = "boot/vmlinuz-6.1.0-56-amd64", "boot/vmlinuz-6.1.0-9-amd64", "usr/lib/modules/6.1.0-56-amd64/"
	tests := map[string]struct {
		change     fstest.MapFS
		compressor string
		arch       string
		want       error
		text       string
	}{
		"no kernel":          {change: fstest.MapFS{newest: nil, older: nil}, want: ErrNoKernel, text: "install a kernel package"},
		"kernel is a UKI":    {change: fstest.MapFS{newest: file([]byte("MZ" + strings.Repeat("x", 2000))), older: nil}, want: ErrKernelFormat, text: "UKI"},
		"no modules at all":  {change: fstest.MapFS{older: nil, newest: file(bzImageOf("5.4.0", true))}, want: ErrNoModules, text: "there is no /lib/modules/5.4.0"},
		"no modules.dep":     {change: fstest.MapFS{older: nil, mods + "modules.dep": nil}, want: ErrNoModules, text: "depmod 6.1.0-56-amd64"},
		"module is missing":  {change: fstest.MapFS{mods + "kernel/drivers/block/nbd.ko.xz": nil}, want: ErrNoModules, text: "nbd.ko.xz"},
		"no nbd":             {change: fstest.MapFS{mods + "modules.dep": file([]byte("kernel/fs/overlayfs/overlay.ko:\n"))}, want: ErrMissingDriver, text: `"nbd"`},
		"no overlay":         {change: fstest.MapFS{mods + "modules.dep": file([]byte("kernel/drivers/block/nbd.ko.xz:\n"))}, want: ErrMissingDriver, text: `"overlay"`},
		"no squashfs":        {change: fstest.MapFS{mods + "modules.builtin": file(nil)}, want: ErrMissingDriver, text: `"squashfs"`},
		"no lz4":             {compressor: "lz4", want: ErrMissingDriver, text: "CONFIG_SQUASHFS_LZ4 is not set"},
		"no init":            {change: fstest.MapFS{"usr/lib/systemd/systemd": nil}, want: ErrNoInit, text: "/sbin/init"},
		"init is text":       {change: fstest.MapFS{"usr/lib/systemd/systemd": file([]byte("just some text that is long enough"))}, want: ErrNoInit, text: "no program"},
		"init is no program": {change: fstest.MapFS{"usr/lib/systemd/systemd": {Data: elf(62), Mode: 0o644}}, want: ErrNoInit, text: "not executable"},
		"init for arm64":     {change: fstest.MapFS{"usr/lib/systemd/systemd": file(elf(183))}, want: ErrWrongArch, text: "arm64"},
		"kernel for 386":     {change: fstest.MapFS{newest: file(bzImageOf("6.1.0-56-amd64", false))}, want: ErrWrongArch, text: "the kernel for 386"},
		"wanted is arm64":    {arch: "arm64", want: ErrWrongArch, text: "wanted is arm64"},
	}
	for name, tt := range tests {
		_, err := inspectTree(with(debian(), tt.change), tt.compressor, Options{Arch: tt.arch})
		var refused *Error
		if !errors.Is(err, tt.want) || !errors.As(err, &refused) || refused.Advice == "" || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %v with %q", name, err, tt.want, tt.text)
		}
	}
}

func TestAcceptsOddInits(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{"script": []byte("#!/bin/sh\nexec something\n"), "32-bit user land": elf(3)} {
		if _, err := inspectTree(with(debian(), fstest.MapFS{"usr/lib/systemd/systemd": file(data)}), "zstd", Options{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	m := with(debian(), fstest.MapFS{"usr/lib/modules/6.1.0-56-amd64/modules.dep": file([]byte("kernel/drivers/block/nbd.ko.xz:\nkernel/fs/overlayfs/overlay.ko:\n"))})
	got, err := inspectTree(m, "zstd", Options{})
	if err != nil || len(got.Warnings) != 2 || !strings.Contains(got.Warnings[0], "dm-verity") {
		t.Errorf("%v %v", got, err)
	}
}

func TestKernelHeads(t *testing.T) {
	t.Parallel()
	arm := arm64Image("6.12.1-arm64")
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		data          []byte
		arch, release string
	}{
		"amd64":       {bzImageOf("6.1.0-56-amd64", true), "amd64", "6.1.0-56-amd64"},
		"386":         {bzImageOf("5.10.0-686", false), "386", "5.10.0-686"},
		"arm64":       {arm, "arm64", "6.12.1-arm64"},
		"arm64 gzip":  {gzipped(t, arm), "arm64", "6.12.1-arm64"},
		"zboot gzip":  {zbootOf("gzip", gzipped(t, arm)), "arm64", "6.12.1-arm64"},
		"zboot zstd":  {zbootOf("zstd", enc.EncodeAll(arm, nil)), "arm64", "6.12.1-arm64"},
		"no banner":   {arm[:4096], "arm64", ""},
		"bad release": {bzImageOf("../../etc", true), "amd64", ""},
	}
	for name, tt := range tests {
		arch, release, err := kernelHead(bytes.NewReader(tt.data))
		if err != nil || arch != tt.arch || release != tt.release {
			t.Errorf("%s: %s %s %v", name, arch, release, err)
		}
	}
	for name, data := range map[string][]byte{
		"empty": nil, "text": []byte("hello"), "gzip of text": gzipped(t, []byte("hello")), "zboot lzma": zbootOf("lzma", arm),
		"zboot offset": zbootOf("gzip", nil), "gzip cut": gzipped(t, arm)[:20],
	} {
		if _, _, err := kernelHead(bytes.NewReader(data)); !errors.Is(err, errFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCompareVersions(t *testing.T) {
	t.Parallel()
	ordered := []string{"", "5.10.0-8-amd64", "6.1.0-9-amd64", "6.1.0-56-amd64", "6.1.0-56-cloud-amd64", "6.1.192", "6.12.1", "06.12.2"}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := compareVersions(a, b); got < 0 != (i < j) || got == 0 != (i == j) {
				t.Errorf("%q and %q: %d", a, b, got)
			}
		}
	}
}

func TestRefusesFiles(t *testing.T) {
	t.Parallel()
	good, err := os.ReadFile("../squashfs/testdata/zstd.squashfs")
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[binary.LittleEndian.Uint64(flipped[64:])+3] ^= 0xff // the first byte of a compressed inode block
	for name, tt := range map[string]struct {
		data []byte
		want error
	}{
		"not squashfs": {[]byte("text"), squashfs.ErrNotSquashfs},
		"truncated":    {good[:len(good)/2], squashfs.ErrTruncated},
		"flipped":      {flipped, squashfs.ErrCorrupt},
		"no system":    {good, ErrNoKernel},
	} {
		_, err := Inspect(t.Context(), bytes.NewReader(tt.data), int64(len(tt.data)), Options{})
		var refused *Error
		if !errors.Is(err, tt.want) || !errors.As(err, &refused) || refused.Advice == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDeep damages a data block: only a deep inspection reads it.
func TestDeep(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../squashfs/testdata/gzip.squashfs")
	if err != nil {
		t.Fatal(err)
	}
	b[120] ^= 0xff
	for deep, want := range map[bool]error{false: ErrNoKernel, true: squashfs.ErrCorrupt} {
		if _, err := Inspect(t.Context(), bytes.NewReader(b), int64(len(b)), Options{Deep: deep}); !errors.Is(err, want) {
			t.Errorf("deep %v: %v", deep, err)
		}
	}
}

func FuzzKernelHead(f *testing.F) {
	f.Add(bzImageOf("6.1.0", true))
	f.Add(arm64Image("6.1.0")[:4096])
	f.Add(gzipped(f, arm64Image("6.1.0")[:4096]))
	f.Add(zbootOf("gzip", gzipped(f, arm64Image("6.1.0")[:4096])))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, release, err := kernelHead(bytes.NewReader(b))
		if err == nil && strings.ContainsAny(release, "/\x00") {
			t.Errorf("release %q", release)
		}
	})
}
