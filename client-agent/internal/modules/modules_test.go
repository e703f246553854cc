package modules

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestMatch(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true},
		{"", "a", false},
		{"*", "", true},
		{"a*", "abc", true},
		{"a*c", "abcbc", true},
		{"a*c", "abcb", false},
		{"*a*b*", "xxaxxbxx", true},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{"usb:v0BDAp8153d*dc*", "usb:v0BDAp8153d3000dc00", true},
		{"pci:v00001AF4d*sv*sd*bc*sc*i*", "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00", true},
		{"pci:v00008086d000010D3sv*sd*bc*sc*i*", "pci:v00008086d000010D4sv0sd0bc02sc00i00", false},
		{"hid:b0003g*v0000046Dp0000C5[0-3]?", "hid:b0003g0001v0000046Dp0000C52B", true},
		{"hid:b0003g*v0000046Dp0000C5[0-3]?", "hid:b0003g0001v0000046Dp0000C54B", false},
		{"x[!0-9]y", "xay", true},
		{"x[^0-9]y", "x5y", false},
		{"x[]a]y", "x]y", true},
		{"x[a-]y", "x-y", true},
		{"x[a", "x[a", true},
		{"x[ab]", "x", false},
		{`x\*`, "x*", true},
		{`x\*`, "xy", false},
		{`x\`, `x\`, false},
		{"of:N*T*Cvirtio,mmio", "of:Nvirtio_mmioT(null)Cvirtio,mmio", true},
		{"*/b", "a/x/b", true},
		{strings.Repeat("*a", 40) + "b", strings.Repeat("a", 400), false},
	}
	for _, tt := range tests {
		if got := match(tt.pattern, tt.s); got != tt.want {
			t.Errorf("match(%q, %q) = %v", tt.pattern, tt.s, got)
		}
	}
}

// FuzzMatch holds match against Go's regular expressions.
func FuzzMatch(f *testing.F) {
	f.Add("pci:v*d0[1-3]?", "pci:v1d02x")
	f.Add("*a*[!b]*", "xxayb")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got := match(pattern, s)
		if strings.ContainsAny(pattern, `[]\`) || !isASCII(pattern+s) {
			return // no simple translation: only that it ends and stays within bounds is tested
		}
		expr := regexp.QuoteMeta(pattern)
		expr = strings.NewReplacer(`\*`, `(?s:.*)`, `\?`, `(?s:.)`).Replace(expr)
		if want := regexp.MustCompile("^(?:" + expr + ")$").MatchString(strings.ReplaceAll(s, "\x00", "0")); got != want {
			if !strings.Contains(pattern+s, "\x00") {
				t.Errorf("match(%q, %q) = %v, want %v", pattern, s, got, want)
			}
		}
	})
}

func isASCII(s string) bool {
	return !slices.ContainsFunc([]byte(s), func(c byte) bool { return c >= 0x80 })
}

// FuzzIndex feeds one text to all readers of depmod's files.
func FuzzIndex(f *testing.F) {
	f.Add("kernel/a/b.ko: kernel/c/d.ko\nalias pci:v*d[0-9]* b\nsoftdep b pre: d post: e\n", "pci:v1d2")
	f.Add("a.ko: b.ko\nb.ko: a.ko\nsoftdep a pre: b\nsoftdep b pre: a\n", "a")
	f.Fuzz(func(t *testing.T, text, want string) {
		dir := fstest.MapFS{}
		for _, name := range []string{"modules.dep", "modules.alias", "modules.softdep"} {
			dir[name] = &fstest.MapFile{Data: []byte(text)}
		}
		for _, name := range []string{"kernel/a/b.ko", "kernel/c/d.ko", "a.ko", "b.ko"} {
			dir[name] = &fstest.MapFile{}
		}
		x, err := ReadIndex(dir)
		if err != nil {
			return
		}
		for _, name := range append(x.Match(want), want) {
			steps, err := x.Order(name)
			if err == nil && len(steps) == 0 && !x.Builtin(name) {
				t.Errorf("nothing to do for %q", name)
			}
		}
	})
}

// fixture is a small initrd: a NIC with a chain of dependencies, nbd, a driver whose dependency is missing and soft dependencies.
func fixture() fstest.MapFS {
	dir := fstest.MapFS{
		"modules.dep": {Data: []byte(`kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/net/virtio_net.ko: kernel/net/core/net-failover.ko kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/net/core/net-failover.ko:
kernel/drivers/net/r8169.ko: kernel/drivers/net/phy/libphy.ko
kernel/drivers/net/phy/realtek.ko: kernel/drivers/net/phy/libphy.ko
kernel/drivers/net/phy/libphy.ko:
kernel/drivers/net/broken.ko: kernel/lib/missing.ko
kernel/lib/missing.ko:
kernel/drivers/net/loop-a.ko:
kernel/drivers/net/loop-b.ko:
kernel/fs/left_out.ko:
kernel/crypto/sha256-ssse3.ko:
`)},
		"modules.alias": {Data: []byte(`# Aliases extracted from modules themselves.
alias virtio:d00000001v* virtio_net
alias pci:v000010ECd00008168sv*sd*bc*sc*i* r8169
alias pci:v000010ECd00008168sv*sd*bc*sc*i* broken
alias pci:v000010ECd*sv*sd*bc*sc*i* left_out
alias * loop_a
alias crypto-sha256 sha256_ssse3
nonsense
`)},
		"modules.softdep": {Data: []byte("softdep r8169 pre: realtek left_out broken crypto-sha256 post: loop-a\nsoftdep loop_a pre: loop-b\nsoftdep loop_b pre: loop-a\nsoftdep cifs gcm\n")},
		"modules.builtin": {Data: []byte("kernel/fs/squashfs/squashfs.ko\n")},
	}
	for _, file := range []string{
		"kernel/drivers/virtio/virtio_ring.ko", "kernel/drivers/virtio/virtio.ko", "kernel/drivers/net/virtio_net.ko",
		"kernel/net/core/net-failover.ko", "kernel/drivers/net/r8169.ko", "kernel/drivers/net/phy/realtek.ko",
		"kernel/drivers/net/phy/libphy.ko", "kernel/drivers/net/broken.ko", "kernel/drivers/net/loop-a.ko", "kernel/drivers/net/loop-b.ko",
		"kernel/crypto/sha256-ssse3.ko",
	} {
		dir[file] = &fstest.MapFile{Data: []byte("ELF")}
	}
	return dir
}

func index(t *testing.T) *Index {
	t.Helper()
	x, err := ReadIndex(fixture())
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestIndexMatch(t *testing.T) {
	t.Parallel()
	x := index(t)
	tests := []struct {
		modalias string
		want     []string
	}{
		{"virtio:d00000001v00001AF4\n", []string{"virtio_net", "loop_a"}},
		{"pci:v000010ECd00008168sv1sd1bc02sc00i00", []string{"r8169", "broken", "loop_a"}},
		{"crypto-sha256", []string{"loop_a", "sha256_ssse3"}},
		{"usb:v1", []string{"loop_a"}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, x.Match(tt.modalias)); diff != "" {
			t.Errorf("%s: %s", tt.modalias, diff)
		}
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	x := index(t)
	tests := []struct {
		name string
		want string // names, a "?" behind those that may fail
		err  error
	}{
		{"virtio-net", "virtio_ring virtio net_failover virtio_net", nil},
		{"virtio", "virtio_ring virtio", nil},
		{"r8169", "libphy realtek? loop_b? loop_a? sha256_ssse3? r8169", nil},
		{"loop-a", "loop_b? loop_a", nil},
		{"squashfs", "", nil},
		{"broken", "", ErrNotFound},
		{"left_out", "", ErrNotFound},
		{"unheard_of", "", ErrNotFound},
	}
	for _, tt := range tests {
		steps, err := x.Order(tt.name)
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: error %v, want %v", tt.name, err, tt.err)
		}
		var got []string
		for _, s := range steps {
			if s.Optional {
				s.Name += "?"
			}
			got = append(got, s.Name)
		}
		if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

func TestReadIndexNeedsDepAndAlias(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"modules.dep", "modules.alias"} {
		dir := fixture()
		delete(dir, name)
		if _, err := ReadIndex(dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	dir := fixture()
	delete(dir, "modules.softdep")
	delete(dir, "modules.builtin")
	if _, err := ReadIndex(dir); err != nil {
		t.Error(err)
	}
}

// kernel records what is inserted and refuses what it is told to refuse.
type kernel struct {
	loaded []string
	refuse map[string]error
}

func (k *kernel) insert(path, params string) error {
	name := moduleName(path)
	if err := k.refuse[name]; err != nil {
		return err
	}
	k.loaded = append(k.loaded, strings.TrimSpace(name+" "+params))
	return nil
}

func TestLoaderLoadsOnce(t *testing.T) {
	t.Parallel()
	var k kernel
	l := NewLoader(Config{Index: index(t), Insert: k.insert, Params: func(name string) string {
		return map[string]string{"virtio_net": "napi=0"}[name]
	}})
	for range 2 {
		if err := l.Load("virtio_net"); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"virtio_ring", "virtio", "net_failover", "virtio_net napi=0"}
	if diff := cmp.Diff(want, k.loaded); diff != "" {
		t.Error(diff)
	}
	if n := l.Answer("virtio:d00000001v00001AF4"); n != 2 { // loop_a and loop_b, by the alias "*"
		t.Errorf("answered with %d new modules", n)
	}
	if n := l.Answer("virtio:d00000001v00001AF4"); n != 0 {
		t.Errorf("answered again with %d new modules", n)
	}
}

func TestLoaderFailures(t *testing.T) {
	t.Parallel()
	k := kernel{refuse: map[string]error{"realtek": syscall.ENODEV, "virtio": syscall.EKEYREJECTED}}
	l := NewLoader(Config{Index: index(t), Insert: k.insert, Blacklist: []string{"loop-a"}})
	if n := l.Answer("pci:v000010ECd00008168sv1sd1bc02sc00i00"); n != 5 {
		t.Errorf("%d modules work, want 5: %v", n, k.loaded)
	}
	if diff := cmp.Diff([]string{"libphy", "loop_b", "loop_a", "sha256_ssse3", "r8169"}, k.loaded); diff != "" {
		t.Error(diff) // the blacklist stops aliases only, not dependencies
	}
	if err := l.Load("virtio_net"); !errors.Is(err, syscall.EKEYREJECTED) {
		t.Errorf("got %v, want the kernel's error", err)
	}
	if err := l.Load("broken"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

func TestLoaderBlacklist(t *testing.T) {
	t.Parallel()
	var k kernel
	l := NewLoader(Config{Index: index(t), Insert: k.insert, Blacklist: []string{"loop_a", "virtio-net"}})
	if n := l.Answer("virtio:d00000001v00001AF4"); n != 0 || k.loaded != nil {
		t.Errorf("loaded %v", k.loaded)
	}
	if err := l.Load("virtio_net"); err != nil {
		t.Error(err)
	}
}

func TestScanner(t *testing.T) {
	t.Parallel()
	sys := t.TempDir()
	plug := func(device, alias string) {
		file := filepath.Join(sys, "bus", device, "modalias")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(alias), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := NewScanner(sys)
	if got := s.New(); got != nil {
		t.Errorf("an empty sysfs gives %v", got)
	}
	plug("pci/devices/0000:00:03.0", "pci:a\n")
	plug("acpi/devices/x", "\n")
	plug("cpu/devices/cpu0", "cpu:type:x86\n")
	if err := os.MkdirAll(filepath.Join(sys, "bus/acpi/devices/without"), 0o755); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"pci:a"}, s.New()); diff != "" {
		t.Error(diff)
	}
	plug("usb/devices/1-1", "usb:b\n")
	plug("pci/devices/0000:00:04.0", "pci:c\n")
	if diff := cmp.Diff([]string{"pci:c", "usb:b"}, s.New()); diff != "" {
		t.Errorf("new devices: %s", diff)
	}
	if got := s.New(); got != nil {
		t.Errorf("nothing new gives %v", got)
	}
}
