package users

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/steptest"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/testtree"
	"github.com/ltsp-fleet/ltsp-fleet/internal/accounts"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

func image() map[string]string {
	return map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\nlocal:x:500:500::/home/local:/bin/sh\n", "etc/group": "root:x:0:\nlocal:x:500:\n",
		"etc/shadow": "root:$y$r:1::::::\nlocal:$y$l:1::::::\n", "etc/gshadow": "root:*::\nlocal:!::\n", "etc/login.defs": "UID_MIN 500\nGID_MIN 500\n",
		"etc/passwd.lock": "1", // came with the image
	}
}

// pam notes what it was told.
type pam struct{ settings *step.PAMSettings }

func (p *pam) Install(_ context.Context, _ rootdir.Root, s step.PAMSettings) error {
	p.settings = &s
	return nil
}

var school = &agentproto.Users{Passwd: "anna:x:1001:1001::/home/anna:/bin/sh\nben:x:1002:1002::/home/ben:/bin/sh\n", Group: "anna:x:1001:\nben:x:1002:\n"}

func TestMergeAtBootAndLive(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, image())
	if err := os.Chmod(filepath.Join(root, "etc/shadow"), 0o640); err != nil {
		t.Fatal(err)
	}
	c := steptest.New(t, root, step.Values{"PASSWORDS_1": `an\{2\}a/YQ==`, "SSH_SERVER": "login", "PAM_AUTH_TYPE": "Primary"})
	c.Users = school
	told := &pam{}
	c.PAM = told
	steptest.Do(t, c, Step())
	if diff := cmp.Diff(map[string]string{
		"passwd": "root:x:0:0::/root:/bin/sh\nanna:x:1001:1001::/home/anna:/bin/sh\nben:x:1002:1002::/home/ben:/bin/sh\n", "group": "root:x:0:\nanna:x:1001:\nben:x:1002:\n",
		"shadow": "root:!:::::::\nanna:pamltsp=YQ==:::::::\nben:pamltsp:::::::\n", "gshadow": "root:*::\nanna:*::\nben:*::\n",
	}, etc(t, root)); diff != "" {
		t.Errorf("at boot (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&step.PAMSettings{AuthType: "Primary", SSHServer: "login"}, told.settings); diff != "" {
		t.Errorf("PAM (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(filepath.Join(root, "etc/shadow")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("who may read shadow: %v, %v", info.Mode(), err)
	}
	for name := range testtree.Show(t, root) {
		if strings.HasSuffix(name, ".lock") && name != "etc/.pwd.lock" {
			t.Errorf("%s is left", name)
		}
	}
	c.Live = true
	c.Values = step.Values{"PWMERGE_DUR": "local"}
	c.Users = &agentproto.Users{Passwd: strings.Replace(school.Passwd, "anna", "cleo", 2), Group: strings.Replace(school.Group, "anna", "cleo", 1)}
	steptest.Do(t, c, Step())
	if diff := cmp.Diff("root:!:::::::\nlocal:$y$l:1::::::\ncleo:pamltsp:::::::\nben:pamltsp:::::::\n", etc(t, root)["shadow"]); diff != "" {
		t.Errorf("live (-want +got):\n%s", diff)
	}
}

func etc(t *testing.T, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, name := range []string{"passwd", "group", "shadow", "gshadow"} {
		found[name] = testtree.Read(t, root, "etc/"+name)
	}
	return found
}

// TestLeftAlone: without accounts of a login host, and with PAM_AUTH_TYPE=0, the image's stay.
func TestLeftAlone(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		users  *agentproto.Users
		values step.Values
	}{
		{"unknown", nil, step.Values{}},
		{"off", school, step.Values{"PAM_AUTH_TYPE": "0"}},
	} {
		root := testtree.New(t, image())
		before := etc(t, root)
		c := steptest.New(t, root, tt.values)
		c.Users = tt.users
		steptest.Do(t, c, Step())
		if diff := cmp.Diff(before, etc(t, root)); diff != "" {
			t.Errorf("%s (-before +after):\n%s", tt.name, diff)
		}
	}
}

func TestBadExpressionChangesNothing(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, image())
	before := etc(t, root)
	c := steptest.New(t, root, step.Values{"PWMERGE_SGR": `(a)\1`})
	c.Users = school
	if err := merge(c); err == nil || !strings.Contains(err.Error(), "PWMERGE_SGR") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, etc(t, root)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// TestLocks: on a running client a lock that a living process holds is waited for, and what it holds is not touched; one of a dead process is none.
func TestLocks(t *testing.T) {
	t.Parallel()
	files := image()
	delete(files, "etc/passwd.lock")
	root := testtree.New(t, files)
	synctest.Test(t, func(t *testing.T) {
		c := steptest.New(t, root, step.Values{})
		c.Live = true
		touch := func(f accounts.Files) (accounts.Files, error) {
			f.Group = append(f.Group, "new:x:900:\n"...)
			return f, nil
		}
		testtree.Put(t, root, "etc/group.lock", strconv.Itoa(os.Getppid()))
		if err := Update(c, touch); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("held: %v", err)
		}
		if strings.Contains(testtree.Read(t, root, "etc/group"), "new") {
			t.Error("the file was changed although it is locked")
		}
		testtree.Put(t, root, "etc/group.lock", "4194304")
		if err := Update(c, touch); err != nil {
			t.Errorf("dead: %v", err)
		}
		if !strings.Contains(testtree.Read(t, root, "etc/group"), "new") {
			t.Error("the file was not changed")
		}
	})
}
