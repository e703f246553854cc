package remoteapp_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/remoteapp"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	apps := []remoteapp.App{
		{Name: "gimp", Title: "Gimp", Comment: "Paint", Exec: "gimp --no-splash", Icon: "gimp", Categories: "Graphics;", Hosts: "apps1 apps2:2222", Trusted: true},
		{Name: "odd", Exec: `"a b" 'c'`, Title: " x ", Comment: `"`},
		{Name: "xeyes"},
	}
	var tree policy.Tree
	for _, a := range apps {
		f, err := a.Encode()
		if err != nil {
			t.Fatal(err)
		}
		tree = tree.Put(f)
	}
	tree = tree.Put(policy.File{Path: "remoteapps.d/notes.txt", Kind: policy.Regular}).Put(policy.File{Path: "remoteapps.d/sub/x.conf", Kind: policy.Regular})
	got, err := remoteapp.List(tree)
	if diff := cmp.Diff(apps, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
}

func TestEncodeRefuses(t *testing.T) {
	t.Parallel()
	for name, app := range map[string]remoteapp.App{
		"no name": {}, "path": {Name: "../x"}, "line end": {Name: "x", Exec: "a\nHosts=evil"}, "long": {Name: "x", Comment: strings.Repeat("c", 600)},
	} {
		if f, err := app.Encode(); err == nil {
			t.Errorf("%s: %s", name, f.Content)
		}
	}
}

func TestListTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	file := func(name, text string) policy.File {
		return policy.File{Path: name, Kind: policy.Regular, Content: []byte(text)}
	}
	apps, err := remoteapp.List(policy.Tree{
		file("remoteapps.d/a.conf", "Exec=a\nColour=red\n"), file("remoteapps.d/b.conf", "# b\n\nExec = b\n"), file("remoteapps.d/c.conf", "words\n"),
		file("remoteapps.d/d.conf", "Trusted=perhaps\n"),
	})
	if len(apps) != 1 || apps[0].Exec != "b" || err == nil {
		t.Fatalf("apps %v, error %v", apps, err)
	}
	for _, says := range []string{`a.conf: line 2: unknown key "Colour"`, "c.conf: line 1: want KEY=VALUE", "d.conf: line 1"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("error %q does not say %q", err, says)
		}
	}
}
