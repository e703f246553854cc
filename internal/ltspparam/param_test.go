package ltspparam

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTableIsWhole(t *testing.T) {
	seen := make(map[string]bool)
	for _, p := range All() {
		switch {
		case p.Name == "" || p.Applet == "" || p.Summary == "" || p.Support == "" || p.Effect == "" || p.Side == "":
			t.Errorf("%s: a field is empty", p.Name)
		case seen[p.Name]:
			t.Errorf("%s is there twice", p.Name)
		case (p.Differs == "") != (p.Support == Yes):
			t.Errorf("%s: support %q with difference %q", p.Name, p.Support, p.Differs)
		case p.Family != strings.HasSuffix(p.Name, "_"):
			t.Errorf("%s: a family ends with _", p.Name)
		case (p.Effect == Never) != (p.Support == No) && p.Name != "BASE_DIR" && p.Name != "TFTP_DIR" && p.Name != "HOME_DIR":
			t.Errorf("%s: support %q takes effect %q", p.Name, p.Support, p.Effect)
		case !strings.HasSuffix(p.Summary, ".") || strings.HasSuffix(p.Differs, "."):
			t.Errorf("%s: a summary is a sentence, a difference is none", p.Name)
		}
		seen[p.Name] = true
	}
	// What LTSP's scripts say that they read, and what only their code tells.
	for name := range strings.FieldsSeq(`ADD_IMAGE_EXCLUDES ADMINISTRATIVE_CLIENT ALL_IMAGES AUTOLOGIN BACKUP BASE_DIR BINARIES BLACKLIST_MODULES CLEANUP CRONTAB_x CUPS_SERVER
		DEBUG_LOG DEBUG_SHELL DEFAULT_IMAGE DISABLE_SESSION_SERVICES DISABLE_SYSTEM_SERVICES DNS DNS_SERVER FSTAB_x GDM3_CONF HOME_DIR HOSTNAME HOSTS_x IGNORE_EPOPTES IMAGE
		IMAGE_TO_RAM INCLUDE IONICE IPXE_x KEEP_SESSION_SERVICES KEEP_SYSTEM_SERVICES KERNEL_INITRD KERNEL_PARAMETERS LANG LANGUAGE LIGHTDM_CONF LOCAL_SWAP LTSPDM_USERS
		LTSP_DEBUG LTSP_SKIP_SCRIPTS MASK_SESSION_SERVICES MASK_SYSTEM_SERVICES MENU_TIMEOUT MKHOMEDIR MKSQUASHFS_PARAMS MULTISEAT NAT NFS_HOME NFS_TFTP OMIT_FUNCTIONS
		OMIT_IMAGE_EXCLUDES OVERLAY OVERWRITE PAM_AUTH_TYPE PASSWORDS_x POST_INIT_x PRE_INITRD_BOTTOM_x PROXY_DHCP PWMERGE_DGR PWMERGE_DUR PWMERGE_SGR PWMERGE_SUR
		READ_AHEAD_KB REAL_DHCP RELOGIN RELOGIN_TIMEOUT REMOTEAPPS REVERT RPI_IMAGE SDDM_CONF SEARCH_DOMAIN SERVER SLICK_CONF SSHFS SSH_OPTIONS SSH_SERVER SYMLINK_SNAPS
		TFTP TFTP_DIR UDEV_SEAT_1_x X_DRIVER X_HORIZSYNC X_MODELINE X_MODES X_PREFERREDMODE X_VERTREFRESH X_VIRTUAL`) {
		if _, ok := Lookup(name); !ok {
			t.Errorf("%s is not known", name)
		}
	}
}

func TestLookup(t *testing.T) {
	for name, want := range map[string]string{
		"HOSTS_A": "HOSTS_", "HOSTS_": "", "HOSTS": "", "POST_INIT_X": "POST_", "HOSTNAME": "HOSTNAME", "hostname": "", "X_MODES": "X_MODES", "X_OTHER": "", "REMOTEAPPS_SERVER": "REMOTEAPPS_SERVER",
		"UDEV_SEAT_1_SOUND": "UDEV_SEAT_",
	} {
		p, ok := Lookup(name)
		if p.Name != want || ok != (want != "") {
			t.Errorf("Lookup(%q) = %q, %v", name, p.Name, ok)
		}
	}
}

func TestAllIsSortedAndTheCallers(t *testing.T) {
	all := All()
	if !slices.IsSortedFunc(all, func(a, b Param) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("not sorted")
	}
	all[0].Name = "changed"
	if All()[0].Name == "changed" {
		t.Error("the table was changed")
	}
}

var update = flag.Bool("update", false, "write the table of docs/ltsp.conf.md")

// TestTableIsDocumented compares the table of docs/ltsp.conf.md with the code's.
func TestTableIsDocumented(t *testing.T) {
	const name = "../../docs/ltsp.conf.md"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const from, to = "<!-- parameters -->\n", "<!-- end of parameters -->\n"
	before, rest, ok := strings.Cut(string(text), from)
	table, after, ended := strings.Cut(rest, to)
	if !ok || !ended {
		t.Fatal("the marks of the table are missing")
	}
	if *update {
		if err := os.WriteFile(name, []byte(before+from+Markdown()+to+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(Markdown(), table); diff != "" {
		t.Errorf("docs/ltsp.conf.md is old; run: go test ./internal/ltspparam -update\n%s", diff)
	}
}

func TestShown(t *testing.T) {
	for name, want := range map[string]string{"POST_": "POST_APPLET_x", "FSTAB_": "FSTAB_x", "UDEV_SEAT_": "UDEV_SEAT_n_x"} {
		p, _ := Lookup(name + "x")
		if p.Shown() != want {
			t.Errorf("got %q, want %q", p.Shown(), want)
		}
	}
	if p, _ := Lookup("LANG"); p.Shown() != "LANG" {
		t.Errorf("got %q", p.Shown())
	}
}
