//go:build component

package logintest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/pam"
)

// pamFiles are what pam-auth-update and pam.Configure see to.
var pamFiles = []string{"etc/pam.d/common-auth", "etc/pam.d/common-session", "var/lib/pam/auth", "var/lib/pam/session", "var/lib/pam/seen", "usr/share/pam-configs/ltsp"}

// TestAgainstPamAuthUpdate has the real pam-auth-update do what Configure did, from the profile that Configure left, for other packages' profiles
// in all the layouts that package pam's tests know.
func TestAgainstPamAuthUpdate(t *testing.T) {
	layouts, err := filepath.Glob("../pam/testdata/*")
	if err != nil || len(layouts) == 0 {
		t.Fatal(layouts, err)
	}
	for _, layout := range layouts {
		t.Run(filepath.Base(layout), func(t *testing.T) {
			m := newMachine(t, "pam")
			m.must(as{}, "sh", "-c", "rm -rf /etc/pam.d/common-* /usr/share/pam-configs/* /var/lib/pam/*")
			if err := os.CopyFS(m.path("usr/share/pam-configs"), os.DirFS(filepath.Join(layout, "before/usr/share/pam-configs"))); err != nil {
				t.Fatal(err)
			}
			update := func(args ...string) {
				t.Helper()
				m.must(as{env: []string{"DEBIAN_FRONTEND=noninteractive"}}, append([]string{"pam-auth-update"}, args...)...)
			}
			update("--force")
			before := m.files()
			for _, to := range []string{loginconf.Primary, loginconf.Additional} {
				m.configure(t, to)
				ours := m.files()
				m.restore(before)
				m.write("usr/share/pam-configs/ltsp", ours["usr/share/pam-configs/ltsp"], 0o644)
				update("--package")
				if diff := cmp.Diff(m.files(), ours); diff != "" {
					t.Errorf("%s, from pam-auth-update to us:\n%s", to, diff)
				}
				// It goes on from what Configure left: it takes another profile in, and ours out.
				m.restore(ours)
				update("--package")
				if diff := cmp.Diff(ours, m.files()); diff != "" {
					t.Errorf("%s, pam-auth-update afterwards:\n%s", to, diff)
				}
				update("--package", "--remove", "ltsp")
				m.restore(map[string]string{"usr/share/pam-configs/ltsp": ""})
				after := m.files()
				for _, name := range []string{"etc/pam.d/common-auth", "etc/pam.d/common-session"} {
					if diff := cmp.Diff(before[name], after[name]); diff != "" {
						t.Errorf("%s, removed by pam-auth-update: %s:\n%s", to, name, diff)
					}
				}
				m.restore(before)
			}
		})
	}
}

func (m *machine) configure(t *testing.T, authType string) {
	t.Helper()
	root, err := os.OpenRoot(m.root)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := pam.Configure(root, loginconf.Settings{AuthType: authType, SSHServer: "server"}); err != nil {
		t.Fatal(err)
	}
}

// files returns pamFiles, "" for those that are missing.
func (m *machine) files() map[string]string {
	m.t.Helper()
	out := map[string]string{}
	for _, name := range pamFiles {
		if out[name] = ""; m.exists(name) {
			out[name] = m.read(name)
		}
	}
	return out
}

// restore writes files, and removes those that are "".
func (m *machine) restore(files map[string]string) {
	m.t.Helper()
	for name, text := range files {
		if text != "" {
			m.write(name, text, 0o644)
		} else if err := os.RemoveAll(m.path(name)); err != nil {
			m.t.Fatal(err)
		}
	}
}
