package command

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

func TestRemoteappFiles(t *testing.T) {
	t.Parallel()
	apps := []remoteappFlags{
		{Name: "gimp", Title: "Gimp", Comment: "Paint", Exec: "gimp --no-splash", Icon: "gimp", Categories: "Graphics;", Hosts: "apps1 apps2:2222", Trusted: true},
		{Name: "xeyes"},
	}
	var tree policy.Tree
	for _, a := range apps {
		f, err := a.file()
		if err != nil {
			t.Fatal(err)
		}
		tree = tree.Put(f)
	}
	file := func(name, text string) policy.File {
		return policy.File{Path: name, Kind: policy.Regular, Content: []byte(text)}
	}
	tree = tree.Put(file("remoteapps.d/notes.txt", "")).Put(file("remoteapps.d/sub/x.conf", "words"))
	got, err := remoteappsIn(tree)
	if diff := cmp.Diff(apps, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	tree = tree.Put(file("remoteapps.d/a.conf", "Exec=a\nColour=red\n")).Put(file("remoteapps.d/ssh.conf", ""))
	got, err = remoteappsIn(tree)
	if diff := cmp.Diff(apps, got); diff != "" || err == nil {
		t.Fatalf("error %v (-want +got):\n%s", err, diff)
	}
	for _, says := range []string{`remoteapps.d/a.conf: line 2: unknown key "Colour"`, "remoteapps.d/ssh.conf: clients need"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("error %q does not say %q", err, says)
		}
	}
}

func TestRemoteappFileRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		app  remoteappFlags
		says string
	}{
		"no name":           {remoteappFlags{}, "name"},
		"a path":            {remoteappFlags{Name: "../x"}, "name"},
		"a client's own":    {remoteappFlags{Name: "ssh"}, "name"},
		"a line end":        {remoteappFlags{Name: "x", Exec: "a\nHosts=evil"}, "Exec"},
		"an option as host": {remoteappFlags{Name: "x", Hosts: "apps1 -x"}, "host"},
	} {
		if f, err := c.app.file(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q, %v", name, f.Content, err)
		}
	}
}
