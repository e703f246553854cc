package initrd

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const release = "6.1.0-56-amd64"

// ko makes an ELF file with a .modinfo section and a signature behind it.
func ko(name string, firmware ...string) []byte {
	modinfo := "license=GPL\x00name=" + name + "\x00"
	for _, f := range firmware {
		modinfo += "firmware=" + f + "\x00"
	}
	const names = "\x00.modinfo\x00.shstrtab\x00"
	var b bytes.Buffer
	at := uint64(64)
	w := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	w(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: 1, Machine: 62, Version: 1, Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
		Shoff: at + uint64(len(modinfo)+len(names)),
	})
	b.WriteString(modinfo + names)
	w(elf.Section64{})
	w(elf.Section64{Name: 1, Type: 1, Off: at, Size: uint64(len(modinfo))})
	w(elf.Section64{Name: 10, Type: 3, Off: at + uint64(len(modinfo)), Size: uint64(len(names))})
	b.WriteString("~Module signature appended~\n")
	return b.Bytes()
}

func packed(t testing.TB, suffix string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch suffix {
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".xz":
		w, err = xz.WriterConfig{CheckSum: xz.CRC32, DictCap: 1 << 20}.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	default:
		return data
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// image makes a system whose modules have the given suffix.
func image(t testing.TB, suffix string) fstest.MapFS {
	t.Helper()
	dir := "usr/lib/modules/" + release + "/"
	m := fstest.MapFS{"lib": {Data: []byte("usr/lib"), Mode: fs.ModeSymlink | 0o777}}
	put := func(name string, data []byte) { m[name] = &fstest.MapFile{Data: data, Mode: 0o644} }
	deps := map[string]string{
		"kernel/drivers/block/nbd.ko":                  "",
		"kernel/fs/overlayfs/overlay.ko":               "",
		"kernel/drivers/md/dm-verity.ko":               "kernel/drivers/md/dm-mod.ko kernel/lib/reed_solomon/reed_solomon.ko",
		"kernel/drivers/md/dm-mod.ko":                  "",
		"kernel/lib/reed_solomon/reed_solomon.ko":      "",
		"kernel/drivers/net/ethernet/realtek/r8169.ko": "kernel/drivers/net/phy/libphy.ko",
		"kernel/drivers/net/phy/libphy.ko":             "",
		"kernel/drivers/net/phy/realtek.ko":            "kernel/drivers/net/phy/libphy.ko",
		"kernel/drivers/net/ethernet/chelsio/cxgb3.ko": "",
		"kernel/fs/ext4/ext4.ko":                       "",
		"kernel/crypto/crc32c_generic.ko":              "",
		"kernel/arch/x86/crypto/crc32c-fast.ko":        "",
		"kernel/drivers/gpu/i915.ko":                   "kernel/drivers/gpu/drm.ko",
		"kernel/drivers/gpu/drm.ko":                    "",
		"kernel/drivers/net/weak.ko":                   "",
		"updates/dkms/extra-nic.ko":                    "",
	}
	firmware := map[string][]string{
		"r8169": {"rtl_nic/a.fw", "rtl_nic/none.fw"}, "cxgb3": {"cxgb3/t3*.bin"}, "i915": {"i915/dmc.bin"},
	}
	var dep strings.Builder
	for _, file := range slices.Sorted(maps.Keys(deps)) {
		var list []string
		for d := range strings.FieldsSeq(deps[file]) {
			list = append(list, d+suffix)
		}
		fmt.Fprintf(&dep, "%s%s: %s\n", file, suffix, strings.Join(list, " "))
		put(dir+file+suffix, packed(t, suffix, ko(nameOf(file), firmware[nameOf(file)]...)))
	}
	put(dir+"modules.dep", []byte(dep.String()))
	put(dir+"modules.builtin", []byte("kernel/fs/squashfs/squashfs.ko\nkernel/crypto/sha256_generic.ko\n"))
	put(dir+"modules.alias", []byte("# Aliases\nalias pci:v000010ECd00008168sv*sd*bc*sc*i* r8169\nalias pci:v00008086* i915\nalias crypto-crc32c crc32c_generic\nalias crypto-crc32c crc32c_fast\n"))
	put(dir+"modules.softdep", []byte("# Soft\nsoftdep r8169 pre: realtek\nsoftdep ext4 pre: crypto-crc32c\nsoftdep i915 post: drm\nsoftdep cxgb3 ignored\n"))
	put(dir+"modules.weakdep", []byte("weakdep r8169 weak\n"))
	put("boot/config-"+release, []byte("CONFIG_A=y\nCONFIG_RD_ZSTD=y\nCONFIG_B=y\n"))
	put("usr/lib/firmware/rtl_nic/a.fw.zst", packed(t, ".zst", []byte("firmware a")))
	put("usr/lib/firmware/cxgb3/t3b.bin", []byte("firmware b"))
	put("usr/lib/firmware/cxgb3/t3c.bin.xz", packed(t, ".xz", []byte("firmware c")))
	put("usr/lib/firmware/i915/dmc.bin", []byte("gpu"))
	return m
}
