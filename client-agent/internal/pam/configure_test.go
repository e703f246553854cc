package pam

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
)

// The trees under testdata were made by Debian 12's own pam-auth-update from its packages' profiles: "before", and with our profile as "Primary" and
// "Additional". The component test makes them again.
var layouts = []string{"plain", "systemd", "ldapd", "sss", "ecryptfs-krb5", "ccreds"}

// newRoot returns a root directory with a copy of a tree.
func newRoot(t *testing.T, tree string) *os.Root {
	t.Helper()
	dir := t.TempDir()
	if tree != "" {
		if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", filepath.FromSlash(tree)))); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func write(t *testing.T, root *os.Root, name, text string) {
	t.Helper()
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := root.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// read returns all files of a tree but those that pam-auth-update does not know.
func read(t *testing.T, root fs.FS) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || p == loginconf.Path || p == logindPath {
			return err
		}
		text, err := fs.ReadFile(root, p)
		out[p] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func configure(t *testing.T, root *os.Root, authType string) Report {
	t.Helper()
	report, err := Configure(root, loginconf.Settings{AuthType: authType, SSHServer: "server", SSHFS: true, MkHomeDir: true})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestConfigureDoesWhatPamAuthUpdateDoes(t *testing.T) {
	t.Parallel()
	for _, layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			t.Parallel()
			root := newRoot(t, layout+"/before")
			for _, to := range []string{"Primary", "Primary", "Additional", "Primary", "0", "Additional", "0", "0"} {
				report := configure(t, root, to)
				want := layout + "/" + to
				if to == loginconf.Off {
					want = layout + "/before"
				}
				if diff := cmp.Diff(read(t, os.DirFS(filepath.Join("testdata", filepath.FromSlash(want)))), read(t, root.FS())); diff != "" {
					t.Fatalf("%s, against pam-auth-update:\n%s", to, diff)
				}
				if report.AuthType != to {
					t.Errorf("in force: %q", report.AuthType)
				}
				if again := configure(t, root, to); again.Changed != nil {
					t.Errorf("%s a second time changed %v", to, again.Changed)
				}
			}
		})
	}
}

func TestConfigureWritesTheSettings(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "systemd/before")
	want := loginconf.Settings{AuthType: "Primary", SSHServer: "login.school", SSHOptions: []string{"-p", "2222"}, SSHFS: true}
	in := want
	in.AuthType = loginconf.Auto
	if _, err := Configure(root, in); err != nil {
		t.Fatal(err)
	}
	got, err := loginconf.Load(root.FS())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	info, err := root.Stat(loginconf.Path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("settings: %v, %v", info.Mode(), err)
	}
	if text, err := root.ReadFile(logindPath); err != nil || !strings.Contains(string(text), "\nKillUserProcesses=yes\n") {
		t.Errorf("logind: %q, %v", text, err)
	}
	configure(t, root, loginconf.Off)
	for _, name := range []string{loginconf.Path, logindPath} {
		if _, err := root.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}

// TestConfigureReadsLTSPsFile has the type in the file that LTSP's tool reads.
func TestConfigureReadsLTSPsFile(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "systemd/before")
	write(t, root, loginconf.ExtraPath, "PAM_AUTH_TYPE=Additional\n")
	if got := configure(t, root, loginconf.Auto).AuthType; got != loginconf.Additional {
		t.Errorf("in force: %q", got)
	}
	if got := configure(t, root, loginconf.Primary).AuthType; got != loginconf.Primary {
		t.Errorf("in force against ltsp.conf: %q", got)
	}
}

func TestConfigureLeavesOtherPeoplesFilesAlone(t *testing.T) {
	t.Parallel()
	const fedora = "auth        required      pam_env.so\nauth        sufficient    pam_unix.so\nauth        required      pam_deny.so\n"
	for name, files := range map[string]map[string]string{
		"no PAM at all":          {},
		"no such files":          {"etc/pam.d/system-auth": fedora},
		"without marks":          {authPath: fedora, sessionPath: "session required pam_unix.so\n"},
		"marks in another order": {authPath: strings.Join([]string{fallbackMark, primaryMark, additionalMark, endMark}, "\n"), sessionPath: ""},
		"empty":                  {authPath: "", sessionPath: ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := newRoot(t, "")
			for path, text := range files {
				write(t, root, path, text)
			}
			_, err := Configure(root, loginconf.Settings{AuthType: loginconf.Primary})
			if !errors.Is(err, ErrUnmanaged) {
				t.Errorf("error %v", err)
			}
			if diff := cmp.Diff(files, read(t, root.FS())); diff != "" {
				t.Error(diff)
			}
			if report, err := Configure(root, loginconf.Settings{AuthType: loginconf.Off}); err != nil || report.Changed != nil {
				t.Errorf("off: %+v, %v", report, err)
			}
		})
	}
}

// TestConfigureByHand has lines around and inside the blocks that no package put there.
func TestConfigureByHand(t *testing.T) {
	t.Parallel()
	const before = `auth	[success=4	default=ignore]	pam_succeed_if.so user = kiosk
auth	[success=1 default=ignore]	pam_localuser.so
` + primaryMark + `
auth	[success=2 default=ignore]	pam_unix.so nullok
# a word from the admin
-auth	[success=1 user_unknown=ignore default=die]	pam_other.so
session	optional	pam_stray.so
` + fallbackMark + `
auth	requisite			pam_deny.so
auth	required			pam_permit.so
` + additionalMark + `
auth	[default=1]	pam_group.so
auth	optional			pam_cap.so 
` + endMark + `
auth	optional	pam_last.so
`
	const after = `auth	[success=5	default=ignore]	pam_succeed_if.so user = kiosk
auth	[success=1 default=ignore]	pam_localuser.so
` + primaryMark + `
auth	[success=3 default=ignore]	pam_unix.so nullok
# a word from the admin
-auth	[success=2 user_unknown=ignore default=die]	pam_other.so
session	optional	pam_stray.so
auth	[success=1 default=ignore]	pam_exec.so expose_authtok seteuid stdout quiet /run/ltsp/agent pam auth
` + fallbackMark + `
auth	requisite			pam_deny.so
auth	required			pam_permit.so
` + additionalMark + `
auth	[default=1]	pam_group.so
auth	optional			pam_cap.so 
` + endMark + `
auth	optional	pam_last.so
`
	root := newRoot(t, "plain/before")
	write(t, root, authPath, before)
	configure(t, root, loginconf.Primary)
	if text, _ := root.ReadFile(authPath); string(text) != after {
		t.Error(cmp.Diff(after, string(text)))
	}
	configure(t, root, loginconf.Off)
	if text, _ := root.ReadFile(authPath); string(text) != before {
		t.Error(cmp.Diff(before, string(text)))
	}
}

// TestConfigureTakesOverFromLTSP has an image in which LTSP's own lines are.
func TestConfigureTakesOverFromLTSP(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "systemd/Primary")
	for _, name := range []string{authPath, sessionPath, savedDir + "/auth", savedDir + "/session"} {
		text, err := root.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		write(t, root, name, strings.NewReplacer("/run/ltsp/agent pam auth", "/usr/share/ltsp/client/login/pamltsp pam_auth",
			"/run/ltsp/agent pam session", "/usr/share/ltsp/client/login/pamltsp pam_session").Replace(string(text)))
	}
	configure(t, root, loginconf.Primary)
	if diff := cmp.Diff(read(t, os.DirFS("testdata/systemd/Primary")), read(t, root.FS())); diff != "" {
		t.Error(diff)
	}
}

// TestNoPrimaryModules has no module before ours; what stands there instead would let everybody in if ours were only put beside it.
func TestNoPrimaryModules(t *testing.T) {
	t.Parallel()
	const frame = primaryMark + "\n%s\n" + fallbackMark + "\nauth\trequisite\tpam_deny.so\nauth\trequired\tpam_permit.so\n" + additionalMark + "\n" + endMark + "\n"
	before := strings.Replace(frame, "%s", "auth\t"+emptyPrimary, 1)
	root := newRoot(t, "plain/before")
	write(t, root, authPath, before)
	write(t, root, savedDir+"/auth", "Module: null\n"+emptyPrimary+"\n")
	configure(t, root, loginconf.Primary)
	want := strings.Replace(frame, "%s", "auth\t[success=1 default=ignore]\t"+authModule, 1)
	if text, _ := root.ReadFile(authPath); string(text) != want {
		t.Error(cmp.Diff(want, string(text)))
	}
	configure(t, root, loginconf.Off)
	if text, _ := root.ReadFile(authPath); string(text) != before {
		t.Error(cmp.Diff(before, string(text)))
	}
}

func TestAuthType(t *testing.T) {
	t.Parallel()
	const plain = "auth [success=1 default=ignore] pam_unix.so\n"
	for name, c := range map[string]struct {
		files  map[string]string
		wanted string
		want   string
	}{
		"plain":                       {map[string]string{authPath: plain}, "", "Primary"},
		"no PAM":                      {nil, "", "Primary"},
		"LDAP":                        {map[string]string{authPath: plain + "auth sufficient pam_ldap.so\n"}, "", "Additional"},
		"not quite LDAP":              {map[string]string{authPath: plain + "auth sufficient pam_ldapx.so my_pam_ldap\n"}, "", "Primary"},
		"SSSD module alone":           {map[string]string{authPath: plain + "auth sufficient pam_sss.so\n"}, "", "Primary"},
		"SSSD configured alone":       {map[string]string{authPath: plain, "etc/sssd/sssd.conf": "id_provider=ad"}, "", "Primary"},
		"SSSD":                        {map[string]string{authPath: plain + "auth x pam_sss.so\n", "etc/sssd/sssd.conf": "[d]\nid_provider = ad\n"}, "", "Additional"},
		"SSSD in parts":               {map[string]string{authPath: plain + "auth x pam_sss.so\n", "etc/sssd/conf.d/10-x.conf": "id_provider=ldap\n"}, "", "Additional"},
		"SSSD in a file of no effect": {map[string]string{authPath: plain + "auth x pam_sss.so\n", "etc/sssd/notes": "id_provider=ldap\n"}, "", "Primary"},
		"LDAP, but told":              {map[string]string{authPath: plain + "auth sufficient pam_ldap.so\n"}, "Primary", "Primary"},
		"told off":                    {map[string]string{authPath: plain}, "0", "0"},
		"told a typo":                 {map[string]string{authPath: plain}, "primary", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := newRoot(t, "")
			for path, text := range c.files {
				write(t, root, path, text)
			}
			got, err := AuthType(root.FS(), c.wanted)
			if got != c.want || (err != nil) != (c.want == "") {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

// FuzzStack inserts and removes a line anywhere in hostile files: what was there is there again.
func FuzzStack(f *testing.F) {
	for _, layout := range layouts {
		text, err := os.ReadFile(filepath.Join("testdata", layout, "before", filepath.FromSlash(authPath)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, 0)
	}
	f.Add([]byte("auth [success=99999999999999999999 default=1] x\nauth [=0=1"), 1)
	f.Fuzz(func(t *testing.T, text []byte, at int) {
		s := &stack{kind: "auth", lines: strings.Split(string(text), "\n")}
		before := strings.Clone(string(s.text()))
		if at < 0 || at > len(s.lines) {
			return
		}
		s.insert(at, "auth required pam_ours.so")
		s.remove(at)
		if after := string(s.text()); canonical(after) != canonical(before) {
			t.Errorf("%q became %q", before, after)
		}
		_, _ = parseStack("auth", text)
		_ = parseSaved(text).owners(at)
	})
}

// canonical drops leading zeros of jumps.
func canonical(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		lines[i] = mapControl(l, func(n int) int { return n })
	}
	return strings.Join(lines, "\n")
}
