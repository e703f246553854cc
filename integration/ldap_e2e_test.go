//go:build e2e

package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
)

// ldapConf points an image with Debian's libnss-ldapd and libpam-ldapd to the site's directory, as a school would.
const ldapConf = `[clients]
DISABLE_SYSTEM_SERVICES="lightdm"
POST_INIT_LDAP="section_ldap"

[ldap]
install -m 640 -o root -g nslcd /etc/ltsp/nslcd.conf /etc/nslcd.conf
sed -i -e 's/^\(passwd\|group\|shadow\):.*/\1: files ldap/' /etc/nsswitch.conf
`

const nslcdConf = "uid nslcd\ngid nslcd\nuri ldap://" + school.LoginHostAddr + "/\nbase " + school.LDAPBase + "\n"

// TestDirectory logs somebody in whom only an LDAP directory knows: the image's own PAM modules check the password, and the home comes by SSHFS
// with the password that was typed.
func TestDirectory(t *testing.T) {
	s, h := people(t, "e2eldp", school.Opening{Packages: []string{"libnss-ldapd", "libpam-ldapd", "nslcd"}})
	must(t, h.StartLDAP(t.Context(), "lena", password("lena")))
	dir := tree(t, map[string]string{"ltsp.conf": ldapConf, "nslcd.conf": nslcdConf, "passwd": "", "group": ""}) // the directory has the accounts
	must(t, s.Do(t.Context(), "policy", "apply", dir, "--org", "--yes"))
	vm, _ := boot(t, s, testvm.Machine{Name: "ldap", MAC: mac("41"), MemoryMiB: 512})
	g := takeConsole(t, vm)
	g.wants("no account of hers is on the PC", "grep -c ^lena: /etc/passwd", `^0$`)
	g.wants("the directory knows her", "getent passwd lena", `^lena:`)
	g.wants("PAM keeps to the directory", "grep -c pam_ldap /etc/pam.d/common-auth", `^[1-9]`)
	if g.logIn("lena", "wrong") {
		t.Error("lena is in with a wrong password")
		g.logOut()
	}
	if !g.logIn("lena", password("lena")) {
		t.Fatalf("lena is not let in\nconsole:\n%s", g.Tail(30))
	}
	g.wants("her home comes by SSHFS", "findmnt -n -o FSTYPE /home/lena; pwd", `^fuse\.sshfs\n/home/lena$`)
	g.sh("echo 'from the directory' >note.txt; sync")
	if text, err := os.ReadFile(filepath.Join(h.Root, "home/lena/note.txt")); err != nil || string(text) != "from the directory\n" {
		t.Errorf("the login host has %q, %v", text, err)
	}
	g.logOut()
}
