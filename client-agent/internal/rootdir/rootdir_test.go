package rootdir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/testtree"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	dir := testtree.New(t, map[string]string{
		"lib":                      "-> usr/lib",
		"usr/lib/systemd/systemd":  "#!x",
		"sbin/init":                "-> /lib/systemd/systemd",
		"etc/up":                   "-> ../../../../usr/lib/f",
		"usr/lib/f":                "content",
		"etc/loop":                 "-> loop",
		"etc/dangling":             "-> /run/x/y",
		"usr/bin/script":           "not executable",
		"usr/lib/systemd/dir.d/":   "",
		"etc/absolute-to-elsewise": "-> /etc/hostname",
	})
	r := Root(dir)
	for p, want := range map[string]string{
		"/sbin/init": "usr/lib/systemd/systemd", "/etc/up": "usr/lib/f", "/etc/dangling": "run/x/y", "/none/at/all": "none/at/all",
		"/../../usr": "usr", "/etc/absolute-to-elsewise": "etc/hostname",
	} {
		if got, err := r.resolve(p); err != nil || got != filepath.Join(dir, want) {
			t.Errorf("%s: got %s, %v", p, got, err)
		}
	}
	if got := r.Real("/etc/absolute-to-elsewise"); got != "/etc/hostname" {
		t.Errorf("real: %s", got)
	}
	if got, err := r.resolve("/etc/loop"); err == nil {
		t.Errorf("loop: got %s", got)
	}
	if got, err := r.FindInit("/usr/bin/script", "/etc/loop", "/usr/lib/systemd/dir.d", "/sbin/init", "/bin/sh"); err != nil || got != "/sbin/init" {
		t.Errorf("init: got %s, %v", got, err)
	}
	if got, err := r.FindInit("/usr/bin/script", "/none"); err == nil {
		t.Errorf("init: got %s", got)
	}
}

func TestChangesStayInside(t *testing.T) {
	t.Parallel()
	outside := testtree.New(t, map[string]string{"file": "outside", "dir/": ""})
	dir := testtree.New(t, map[string]string{
		"etc/link": "-> " + outside + "/file", "etc/dir": "-> " + outside + "/dir", "etc/up": "-> ../../../.." + outside + "/file", "etc/conf": "-> target", "etc/target": "old",
		"var/log/a.log": "text", "var/log/b.log": "text", "var/log/none/": "",
	})
	r := Root(dir)
	for _, err := range []error{
		r.WriteFile("/etc/link", "new"), r.WriteFile("/etc/dir/x", "new"), r.EditFile("/etc/conf", "new"), r.WriteFileMode("/etc/new/secret", "x", 0o600),
		r.Symlink("/dev/null", "/etc/masked"), r.Symlink("b", "/etc/masked"), r.Remove("/etc/up"), r.Remove("/etc/none/at/all"), r.RemoveAll("/var/log/none"),
		r.Truncate("/var/log/a.log"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if r.EditFile("/etc/nothing", "") == nil || r.RemoveAll("/..") == nil || r.Truncate("/etc/masked") == nil {
		t.Error("what cannot be done was done")
	}
	want := map[string]string{
		"etc/link": "new", "etc/dir": "-> " + outside + "/dir", "etc/conf": "-> target", "etc/target": "new", "etc/new/secret": "x", "etc/masked": "-> b",
		"var/log/a.log": "", "var/log/b.log": "text", outside[1:] + "/dir/x": "new",
	}
	if diff := cmp.Diff(want, testtree.Show(t, dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"file": "outside"}, testtree.Show(t, outside)); diff != "" {
		t.Errorf("outside (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(filepath.Join(dir, "etc/new/secret")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", info, err)
	}
	if diff := cmp.Diff([]string{"/var/log/a.log", "/var/log/b.log"}, r.Glob("/var/log/*.log")); diff != "" {
		t.Error(diff)
	}
	if _, err := r.ReadFile("/nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := r.ReadFile("/etc"); err == nil {
		t.Error("a directory was read")
	}
}
