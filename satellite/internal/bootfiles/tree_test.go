package bootfiles

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/bootmenu"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/clients"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

const (
	pc01      = "52:54:00:67:00:10"
	bigLength = 10 << 20
)

var (
	labID    = manifest.ID{0x1a, 31: 7}
	loaderID = manifest.ID{0x10, 31: 1}
)

// dirStore keeps files as DIR/ID/ARTIFACT.
type dirStore struct {
	root *os.Root
	fail error // of the next calls
}

func (s *dirStore) OpenBootFile(id manifest.ID, artifact string) (*os.File, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	return s.root.Open(filepath.Join(id.String(), artifact))
}

// sightings is a Registry that writes down what it is told.
type sightings struct {
	mu     sync.Mutex
	seen   []clients.Sighting
	tokens int
	fail   error
	steps  chan string // gets each step, if it has room
}

func (r *sightings) Saw(s clients.Sighting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, s)
	select {
	case r.steps <- s.Step:
	default:
	}
}

func (r *sightings) IssueToken(string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tokens++
	return fmt.Sprintf("%032x", r.tokens), r.fail
}

func (r *sightings) list() []clients.Sighting {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

type lab struct {
	*Tree
	store    *dirStore
	registry *sightings
	initrd   []byte
}

func testMenu(t *testing.T, versions ...bootmenu.Version) *bootmenu.Menu {
	t.Helper()
	m, err := bootmenu.New(bootmenu.State{
		Desired: &config.Desired{
			Revision: 3, Site: "school", Boot: config.Policy{Boot: "lab:stable"},
			Versions: []config.Version{{Image: "lab", Number: 7, ID: labID, Kind: manifest.Image, Channels: []string{"stable"}}},
		},
		Satellite: "a1", Versions: versions, TrustAnchor: "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func labVersion() bootmenu.Version {
	return bootmenu.Version{
		Image: "lab", Number: 7, ID: labID, Kind: manifest.Image, Arch: "amd64", Digest: [32]byte{1}, DataBytes: 4096, SizeBytes: 8192, Verified: true,
		Artifacts: []string{manifest.Squashfs, manifest.Kernel, manifest.InitrdFull},
	}
}

func newTree(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	big := bytes.Repeat([]byte("0123456789abcde\n"), bigLength/16)
	copy(big[bigLength/2:], "the middle")
	for name, data := range map[string][]byte{
		labID.String() + "/kernel": []byte("the kernel"), labID.String() + "/initrd-full": big, labID.String() + "/squashfs": []byte("secret"),
		loaderID.String() + "/undionly.kpxe": []byte("BIOS loader"), loaderID.String() + "/snponly.efi": []byte("EFI loader"),
		"outside": []byte("outside"),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	l := &lab{store: &dirStore{root: root}, registry: &sightings{steps: make(chan string, 1000)}, initrd: big}
	l.Tree, err = NewTree(TreeConfig{Store: l.store, Registry: l.registry, Now: func() time.Time { return time.Unix(1.8e9, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	l.SetMenu(testMenu(t, labVersion(), bootmenu.Version{
		Image: "bootloaders", Number: 1, ID: loaderID, Kind: manifest.Bootloaders, Verified: true, Artifacts: []string{"undionly.kpxe", "snponly.efi"},
	}))
	return l
}

func request(name string) Request {
	return Request{Name: name, Client: netip.MustParseAddr("192.168.67.20"), Local: netip.MustParseAddr("192.168.67.1")}
}

func TestNames(t *testing.T) {
	t.Parallel()
	l := newTree(t)
	id := labID.String()
	tests := []struct {
		name, want string // the content's beginning; empty: not there
	}{
		{"/boot/v/" + id + "/kernel", "the kernel"},
		{"boot/v/" + id + "/initrd-full", "0123456789abcde\n"},
		{"//boot///v/" + id + "//kernel", "the kernel"},
		{"/ltsp/lab/vmlinuz", "the kernel"},
		{"ltsp/lab/initrd.img", "0123456789abcde\n"},
		{"/ltsp/undionly.kpxe", "BIOS loader"},
		{"ltsp/snponly.efi", "EFI loader"},
		{"undionly.kpxe", "BIOS loader"},
		{`\undionly.kpxe`, "BIOS loader"},
		{"d6//snponly.efi", ""},
		{"/boot/loader/snponly.efi", "EFI loader"},
		{"/boot.ipxe", "#!ipxe\n:again\nchain --replace --autofree http://192.168.67.1/boot.ipxe?mac="},
		{"ltsp/ltsp.ipxe", "#!ipxe\n:again"},
		{"boot/script/52-54-00-67-00-10", "#!ipxe\necho\necho LTSP Fleet: image lab, version 7"},
		{"boot/script/52-54-00-67-00-10/again", "#!ipxe\necho\necho LTSP"},
		{"boot/client/52-54-00-67-00-10.cpio", "070701"},

		{"/boot/v/" + id + "/squashfs", ""},
		{"/boot/v/" + id + "/initrd-school", ""},
		{"/boot/v/" + id, ""},
		{"/boot/v/" + strings.Repeat("0", 64) + "/kernel", ""},
		{"/boot/v/" + id[:63] + "/kernel", ""},
		{"/boot/v/" + loaderID.String() + "/kernel", ""},
		{"/boot/loader/kernel", ""},
		{"/boot/loader/../v/" + id + "/kernel", ""},
		{"/boot/loader/..", ""},
		{"../outside", ""},
		{"/boot/../outside", ""},
		{"outside", ""},
		{".", ""}, {"..", ""}, {"", ""}, {"/", ""}, {"///", ""},
		{"undionly.kpxe\x00.txt", ""},
		{"undionly.kpxe\n", ""},
		{"ltsp/lab", ""},
		{"ltsp/games/vmlinuz", ""},
		{"ltsp/bootloaders/vmlinuz", ""},
		{"ltsp/lab/squashfs", ""},
		{"ltsp/a/b/vmlinuz", ""},
		{"boot/script/evil", ""},
		{"boot/script/52-54-00-67-00-10/twice", ""},
		{"boot/client/52-54-00-67-00-10", ""},
		{strings.Repeat("a/", 300) + "undionly.kpxe", ""},
		{strings.Repeat("a", 129), ""},
		{"grub/x86_64-efi/command.lst", ""},
	}
	for _, tt := range tests {
		f, err := l.Open(request(tt.name))
		if tt.want == "" {
			if !errors.Is(err, fs.ErrNotExist) || !IsExpected(err) {
				t.Errorf("%q: %v, want fs.ErrNotExist", tt.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", tt.name, err)
			continue
		}
		head := make([]byte, len(tt.want))
		if _, err := io.ReadFull(f, head); err != nil || string(head) != tt.want {
			t.Errorf("%q begins with %q, %v", tt.name, head, err)
		}
		if size, err := f.Seek(0, io.SeekEnd); err != nil || size != f.Size {
			t.Errorf("%q: %d bytes, want %d, %v", tt.name, size, f.Size, err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("%q: close: %v", tt.name, err)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	l := newTree(t)
	q := func(name, query string) Request { r := request(name); r.Query = query; return r }
	tests := []struct {
		name    string
		prepare func()
		request Request
		want    error
	}{
		{"bad MAC", nil, q("boot.ipxe", "mac=x"), bootmenu.ErrRequest},
		{"no MAC for a boot configuration", nil, q("boot/client.cpio", ""), bootmenu.ErrRequest},
		{"disk", func() { l.store.fail = fs.ErrPermission }, q("undionly.kpxe", ""), fs.ErrPermission},
		{"no randomness", func() { l.registry.fail = io.ErrUnexpectedEOF }, q("boot/client.cpio", "mac="+pc01), io.ErrUnexpectedEOF},
		{"nothing to boot", func() { l.SetMenu(testMenu(t)) }, q("boot/client.cpio", "mac="+pc01), ErrNotReady},
		{"no configuration", func() { l.menu.Store(nil) }, q("boot.ipxe", ""), ErrNotReady},
	}
	for _, tt := range tests {
		if tt.prepare != nil {
			tt.prepare()
		}
		if _, err := l.Open(tt.request); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if IsExpected(fs.ErrPermission) {
		t.Error("a fault of the disk counts as a client's")
	}
}

func TestStepsAreTold(t *testing.T) {
	t.Parallel()
	l := newTree(t)
	open := func(r Request, deliver bool) {
		t.Helper()
		f, err := l.Open(r)
		if err != nil {
			t.Fatal(err)
		}
		if deliver {
			f.Delivered()
		}
		f.Close()
	}
	query := "mac=" + pc01 + "&uuid=67000000-0000-4000-8000-000000000010&arch=i386&platform=pcbios"
	with := func(name string, change func(*Request)) Request {
		r := request(name)
		r.Query = query
		change(&r)
		return r
	}
	nothing := func(*Request) {}
	open(with("boot.ipxe", nothing), true)
	open(with("boot.ipxe", func(r *Request) { r.Query += "&again=1" }), true)
	open(with("boot.ipxe", func(r *Request) { r.Peek = true }), false)
	open(with("boot.ipxe", func(r *Request) { r.Query = "" }), true)
	open(request("ltsp/lab/vmlinuz"), true)
	open(request("ltsp/lab/initrd.img"), false)
	open(with("boot/client.cpio", nothing), true)
	open(with("boot/client.cpio", func(r *Request) { r.Peek = true }), false)
	open(request("undionly.kpxe"), true)
	client := netip.MustParseAddr("192.168.67.20")
	script := clients.Sighting{MAC: pc01, Addr: client, Step: clients.StepScript, UUID: "67000000-0000-4000-8000-000000000010", Firmware: "BIOS"}
	again := script
	again.Again = true
	want := []clients.Sighting{
		script, again,
		{Addr: client, Step: clients.StepKernel},
		{MAC: pc01, Addr: client, Step: clients.StepConfig},
		{Addr: client, Step: clients.StepLoader},
	}
	if diff := cmp.Diff(want, l.registry.list(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("sightings (-want +got):\n%s", diff)
	}
	if l.registry.tokens != 1 {
		t.Errorf("%d tokens issued, want one", l.registry.tokens)
	}
}

func FuzzOpen(f *testing.F) {
	for _, s := range []string{
		"/boot/v/" + labID.String() + "/kernel", "ltsp/lab/vmlinuz", "//grubx64.efi", "boot/client/52-54-00-67-00-10.cpio",
		"boot/script/52-54-00-67-00-10/again", "../../etc/passwd", `..\..\x`, "boot.ipxe", "a\x00b", "boot/loader/%2e%2e",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		tg, err := parseName(name)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%q: %v", name, err)
			}
			return
		}
		if strings.ContainsAny(tg.artifact+tg.image, "/\\\x00 \n") || tg.artifact == ".." || tg.artifact == "." || tg.artifact == manifest.Squashfs && tg.kind != kindLoader {
			t.Errorf("%q gave %+v", name, tg)
		}
		switch tg.kind {
		case kindScript, kindConfig:
			if tg.artifact != "" || !tg.id.IsZero() {
				t.Errorf("%q gave %+v", name, tg)
			}
		case kindKernel, kindInitrd:
			if tg.id.IsZero() == (tg.image == "") && !strings.Contains(name, strings.Repeat("0", 64)) {
				t.Errorf("%q names no version or two: %+v", name, tg)
			}
		case kindLoader:
			if tg.artifact == "" {
				t.Errorf("%q gave a loader without a name", name)
			}
		default:
			t.Errorf("%q gave %+v", name, tg)
		}
	})
}
