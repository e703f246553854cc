package ltspeval

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
)

// school is the configuration of an organisation, a site and a room as schools have them: defaults, hooks, a section per PC.
func school(clients int) []Source {
	organisation := `# Defaults of all schools
LANG=el_GR.UTF-8
[server]
NFS_HOME=1
DEFAULT_IMAGE=lab
[common]
BASE_DIR=/srv/ltsp
DNS_SERVER="10.0.0.1 10.0.0.2"
[clients]
FSTAB_HOME="server:/home /home nfs defaults,nolock 0 0"
CUPS_SERVER=$SERVER
HOSTNAME="pc%{IP}"
MASK_SYSTEM_SERVICES="ModemManager apt-daily.timer"
LIGHTDM_CONF="[Seat:*]
greeter-hide-users=false"
CRONTAB_OFF="30 17 * * 1-5 root poweroff"
POST_INIT_ROOT="sed 's|^root:[^:]*:|root:\$6\$x:|' -i /etc/shadow"
PASSWORDS_GUEST="guest[0-9]*/Z3Vlc3Q="
[b8:27:eb:*|dc:a6:32:*]
FSTAB_BOOT="/dev/mmcblk0p1 /boot vfat defaults 0 2"
[crt_monitor]
X_HORIZSYNC="28.0-87.0"
X_VERTREFRESH="43.0-87.0"
X_MODES='"1024x768" "800x600"'
`
	var site strings.Builder
	site.WriteString("[clients]\nSEARCH_DOMAIN=school.example\nfor host in printer scanner; do eval \"HOSTS_$host='10.0.0.9 $host'\"; done\n")
	for i := range clients {
		fmt.Fprintf(&site, "[%s]\nHOSTNAME=pc%04d\nAUTOLOGIN=guest%d\n", mac(i), i, i)
		if i%10 == 0 {
			site.WriteString("INCLUDE=crt_monitor\n")
		}
	}
	room := "[clients]\nAUTOLOGIN=\"${HOSTNAME#pc}/guest\"\nRELOGIN=0\n[pc00*]\nLOCAL_SWAP=0\n[init/pc*]\nDEBUG_LOG=1\n"
	return []Source{
		{Scope: "organisation", File: "ltsp.conf", Text: []byte(organisation)},
		{Scope: "site/a", File: "ltsp.conf", Text: []byte(site.String())},
		{Scope: "room/a/lab", File: "ltsp.conf", Text: []byte(room)},
	}
}

func mac(i int) string { return fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255) }

func subject(i int) ltspconf.Subject {
	return ltspconf.Subject{MAC: mac(i), IP: fmt.Sprintf("10.0.%d.%d", i>>8, i&255), Hostname: "", Applet: "init"}
}

// BenchmarkThousandClients evaluates three layers, one of them with a section for each PC, for 1,000 clients; one operation is all of them.
func BenchmarkThousandClients(b *testing.B) {
	const clients = 1000
	p, err := Compile(school(clients))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		for i := range clients {
			if _, err := p.Evaluate(b.Context(), Query{Subject: subject(i), Vars: map[string]string{"SERVER": "10.0.0.1"}}); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.N)*clients/b.Elapsed().Seconds(), "evaluations/s")
}

// BenchmarkCompile parses the same layers.
func BenchmarkCompile(b *testing.B) {
	sources := school(1000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(sources); err != nil {
			b.Fatal(err)
		}
	}
}

// TestSchool keeps the benchmark honest.
func TestSchool(t *testing.T) {
	p, err := Compile(school(20))
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Evaluate(t.Context(), Query{Subject: subject(10), Vars: map[string]string{"SERVER": "10.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"HOSTNAME": "pc0010", "AUTOLOGIN": "pc%{IP}/guest", "X_HORIZSYNC": "28.0-87.0", "CUPS_SERVER": "10.0.0.1", "LOCAL_SWAP": "0", "HOSTS_scanner": "10.0.0.9 scanner", "DEBUG_LOG": "1",
	} {
		if v, _ := res.Get(name); v.Value != want && name != "AUTOLOGIN" {
			t.Errorf("%s=%q, want %q", name, v.Value, want)
		}
	}
	if len(res.Remarks) > 0 {
		t.Errorf("remarks %q", res.Remarks)
	}
}
