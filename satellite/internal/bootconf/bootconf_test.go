package bootconf

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/bootmenu"
)

const (
	pc1 = "52:54:00:00:00:01"
	pc2 = "52:54:00:00:00:02"
	pc3 = "52:54:00:00:00:03"
)

// book is a Source with a text for each level.
type book struct {
	mu         sync.Mutex
	generation uint64
	texts      [][2]string // level and ltsp.conf
	asked      int
}

func (b *book) set(texts ...[2]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.texts = texts
	b.generation++
}

func (b *book) Generation() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.generation
}

func (b *book) Room(mac string, _ netip.Addr) string {
	if mac == pc3 {
		return "r2"
	}
	return "r1"
}

func (b *book) Confs(room, applet string) []ltspeval.Source {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	var out []ltspeval.Source
	for _, t := range b.texts {
		if !strings.HasPrefix(t[0], "room/") || t[0] == "room/hill/"+room {
			out = append(out, ltspeval.Source{Scope: t[0], File: "ltsp.conf", Text: []byte(t[1])})
		}
	}
	return out
}

func TestConf(t *testing.T) {
	t.Parallel()
	b := new(book)
	b.set([2]string{"organisation", `
LANG=de_DE.UTF-8
[server]
DEFAULT_IMAGE=lab
KERNEL_PARAMETERS="quiet splash"
MENU_TIMEOUT=5000
IPXE_LAB_IMG="Debian"
[clients]
DEFAULT_IMAGE=never
[52:54:00:*]
MENU_TIMEOUT=1
[52:54:00:00:00:02]
INCLUDE=crt
KERNEL_PARAMETERS=nomodeset
HOSTNAME=library1
[crt]
MENU_TIMEOUT=-1
[ipxe/]
IPXE_OFFICE="Office"
`}, [2]string{"room/hill/r2", "[common]\nDEFAULT_IMAGE=office\n"})
	e := New(b, nil)
	titles := map[string]string{"LAB_IMG": "Debian", "OFFICE": "Office"}
	for mac, want := range map[string]bootmenu.Conf{
		pc1: {DefaultImage: "lab", KernelParameters: "quiet splash", MenuTimeout: new(5000), Titles: titles},
		// A glob above hides the section of the PC, as it does in LTSP.
		pc2: {DefaultImage: "lab", KernelParameters: "quiet splash", MenuTimeout: new(1), Titles: titles},
		pc3: {DefaultImage: "office", KernelParameters: "quiet splash", MenuTimeout: new(5000), Titles: titles},
		"":  {DefaultImage: "lab", KernelParameters: "quiet splash", MenuTimeout: new(5000), Titles: titles},
	} {
		for range 2 {
			if diff := cmp.Diff(want, e.Conf(mac, netip.Addr{})); diff != "" {
				t.Errorf("%q (-want +got):\n%s", mac, diff)
			}
		}
	}
	if b.asked != 2 {
		t.Errorf("configurations were read %d times for 2 rooms", b.asked)
	}
	b.set([2]string{"organisation", "[server]\nDEFAULT_IMAGE=lab\nKERNEL_PARAMETERS=quiet\n[52:54:00:00:00:02]\nINCLUDE=crt\nKERNEL_PARAMETERS=nomodeset\nHOSTNAME=library1\n[crt]\nMENU_TIMEOUT=-1\n"})
	want := bootmenu.Conf{DefaultImage: "lab", KernelParameters: "nomodeset", MenuTimeout: new(-1), Hostname: "library1", Titles: map[string]string{}}
	if diff := cmp.Diff(want, e.Conf(pc2, netip.Addr{})); diff != "" {
		t.Errorf("after a change (-want +got):\n%s", diff)
	}
}

func TestErrorsFallBackAndAreTold(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text, told string
		want             bootmenu.Conf
	}{
		{"syntax", "[server]\nDEFAULT_IMAGE=lab\nif\n", "ltsp.conf", bootmenu.Conf{}},
		{"endless", "[server]\nDEFAULT_IMAGE=lab\nwhile :; do :; done\n", "ltsp.conf", bootmenu.Conf{}},
		{"what only a client knows", "[server]\nDEFAULT_IMAGE=lab\nKERNEL_PARAMETERS=$(uname -r)\n", "KERNEL_PARAMETERS (organisation/ltsp.conf:3)", bootmenu.Conf{DefaultImage: "lab"}},
		{"no number", "[server]\nDEFAULT_IMAGE=lab\nMENU_TIMEOUT=soon\n", "MENU_TIMEOUT", bootmenu.Conf{DefaultImage: "lab"}},
		{"far too long", "MENU_TIMEOUT=99999999999\n", "MENU_TIMEOUT", bootmenu.Conf{}},
		{"a PC's own section", "DEFAULT_IMAGE=lab\n[" + pc1 + "]\nDEFAULT_IMAGE=office\nwhile :; do :; done\n", "ltsp.conf", bootmenu.Conf{DefaultImage: "lab"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := new(book)
			b.set([2]string{"organisation", tt.text})
			told := ""
			e := New(b, func(_, text string) { told = text })
			got := e.Conf(pc1, netip.Addr{})
			if got.Problem == "" || !strings.Contains(got.Problem, tt.told) || !strings.Contains(told, tt.told) {
				t.Errorf("problem %q, told %q", got.Problem, told)
			}
			got.Problem, got.Titles = "", nil
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			b.set([2]string{"organisation", "DEFAULT_IMAGE=lab\n"})
			e.Check()
			if told != "" || e.Conf(pc1, netip.Addr{}).Problem != "" {
				t.Errorf("after the repair it still tells %q", told)
			}
		})
	}
}

func TestMadeUpClientsCostNothing(t *testing.T) {
	t.Parallel()
	b := new(book)
	b.set([2]string{"organisation", "DEFAULT_IMAGE=lab\n[" + pc1 + "]\nDEFAULT_IMAGE=office\n"})
	e := New(b, nil)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if got := e.Conf(fmt.Sprintf("52:54:00:00:01:%02x", i), netip.Addr{}).DefaultImage; got != "lab" {
				t.Errorf("got %q", got)
			}
			if got := e.Conf(pc1, netip.Addr{}).DefaultImage; got != "office" {
				t.Errorf("got %q", got)
			}
		})
	}
	wg.Wait()
	if r := e.rooms["r1"]; b.asked != 1 || len(r.macs) != 1 {
		t.Errorf("configurations were read %d times, %d clients were evaluated", b.asked, len(r.macs))
	}
}

func TestWithoutAPolicy(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff(bootmenu.Conf{}, New(new(book), nil).Conf(pc1, netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}
