package bootconf

import (
	"net/netip"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/bootmenu"
)

// FuzzConf has configurations of two levels and a client's MAC: whatever they hold, booting clients get an answer that can be shown and sent.
func FuzzConf(f *testing.F) {
	f.Add([]byte("[server]\nDEFAULT_IMAGE=lab\nKERNEL_PARAMETERS=\"quiet splash\"\nMENU_TIMEOUT=5000\n["+pc1+"]\nHOSTNAME=pc1\nINCLUDE=crt\n[crt]\nMENU_TIMEOUT=-1\n"), []byte("[ipxe/]\nIPXE_LAB_IMG=Debian\n"), pc1)
	f.Add([]byte("["+pc2+"]\nDEFAULT_IMAGE=$(uname -r)\nMENU_TIMEOUT=99999999999\n"), []byte("DEFAULT_IMAGE=lab\n"), pc2)
	f.Add([]byte("DEFAULT_IMAGE=b\xfcro\nMENU_TIMEOUT=\x1b[1m\nIPXE_A='\n'\n"), []byte("[52:54:*]\n[52:54:00:00:00:0A]\n"), "52:54:00:00:00:0a")
	f.Add([]byte("\xff() {\nif\n"), []byte{}, "")
	f.Add([]byte("while :; do A=x$A; done\n"), []byte("["+pc1+"]\n. ./x\xe9\n"), pc1)
	f.Fuzz(func(t *testing.T, org, site []byte, mac string) {
		if len(org)+len(site) > 4<<10 {
			return
		}
		sources := []ltspeval.Source{{Scope: "organisation", File: "ltsp.conf", Text: org}, {Scope: "site/hill", File: "ltsp.conf", Text: site}}
		told := ""
		e := New(&shelf{sources}, func(_, text string) { told = text })
		c := e.Conf(mac, netip.Addr{})
		if (c.Problem == "") != (told == "") {
			t.Errorf("problem %q, told %q", c.Problem, told)
		}
		if !utf8.ValidString(c.Problem) || strings.ContainsFunc(c.Problem, unicode.IsControl) {
			t.Errorf("problem %q is no line of text", c.Problem)
		}
		if c.MenuTimeout != nil && (*c.MenuTimeout < -1 || *c.MenuTimeout > maxTimeout) {
			t.Errorf("timeout %d", *c.MenuTimeout)
		}
		r := e.rooms["r"]
		if !r.own[mac] {
			if diff := cmp.Diff(r.all, c); diff != "" || c.Hostname != "" || len(r.macs) != 0 {
				t.Errorf("a client without a section of its own, %d evaluated (-all +got):\n%s", len(r.macs), diff)
			}
		} else if got, err := bootmenu.ParseMAC(mac); err != nil || got != mac {
			t.Errorf("%q is taken for a MAC", mac)
		}
		if diff := cmp.Diff(c, e.Conf(mac, netip.Addr{})); diff != "" {
			t.Errorf("asked again (-first +second):\n%s", diff)
		}
	})
}

// shelf is a Source of one room that never changes.
type shelf struct{ sources []ltspeval.Source }

func (s *shelf) Generation() uint64                     { return 1 }
func (s *shelf) Room(string, netip.Addr) string         { return "r" }
func (s *shelf) Confs(string, string) []ltspeval.Source { return s.sources }
