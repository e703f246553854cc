package treedir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/treedir"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	tree := policy.Tree{
		{Path: "client", Kind: policy.Dir, Mode: 0o700},
		{Path: "client/init/60-x.sh", Kind: policy.Regular, Mode: 0o755, Content: []byte("x\n")},
		{Path: "empty", Kind: policy.Dir, Mode: 0o555},
		{Path: "ltsp.conf", Kind: policy.Regular, Mode: 0o660, Content: []byte{}},
		{Path: "xorg.conf", Kind: policy.Symlink, Content: []byte("client/init")},
	}
	dir := filepath.Join(t.TempDir(), "new", "etc")
	if err := treedir.Write(dir, tree); err != nil {
		t.Fatal(err)
	}
	back, remarks, err := treedir.Read(dir)
	if err != nil || len(remarks) > 0 {
		t.Fatal(remarks, err)
	}
	back = back.Remove("client/init") // the directory, which the tree leaves out, comes back as an entry
	want := tree.Remove("client/init")
	if diff := cmp.Diff(want, back); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
	if err := treedir.Write(dir, tree); !errors.Is(err, treedir.ErrNotEmpty) {
		t.Errorf("over what is there: %v", err)
	}
}

// A tree that did not pass Check writes nothing outside of the directory.
func TestWriteStaysInside(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	for name, tree := range map[string]policy.Tree{
		"dot dot": {{Path: "../out", Kind: policy.Regular, Mode: 0o644}},
		"link":    {{Path: "a", Kind: policy.Symlink, Content: []byte("..")}, {Path: "a/out", Kind: policy.Regular, Mode: 0o644}},
	} {
		if err := treedir.Write(filepath.Join(base, "in-"+name), tree); err == nil {
			t.Errorf("%s: was written", name)
		}
	}
	if _, err := os.Stat(filepath.Join(base, "out")); err == nil {
		t.Error("a file lies outside")
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(dir string) error{
		"pipe":         func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600) },
		"leaving link": func(dir string) error { return os.Symlink("../../x", filepath.Join(dir, "link")) },
		"long conf": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "ltsp.conf"), []byte(strings.Repeat("#", policy.MaxConfBytes+1)), 0o600)
		},
		"long file": func(dir string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "big"), nil, 0o600), os.Truncate(filepath.Join(dir, "big"), policy.MaxFileBytes+1))
		},
	} {
		dir := t.TempDir()
		if err := make(dir); err != nil {
			t.Fatal(err)
		}
		if _, _, err := treedir.Read(dir); !errors.Is(err, policy.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := treedir.Read(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

func TestReadTellsWhatIsLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "sshfs")
	if err := errors.Join(os.WriteFile(file, nil, 0o755), os.Chmod(file, 0o755|os.ModeSetuid)); err != nil {
		t.Fatal(err)
	}
	tree, remarks, err := treedir.Read(dir)
	if err != nil || len(remarks) != 1 || !strings.Contains(remarks[0], "sshfs") || tree[0].Mode != 0o755 {
		t.Errorf("tree %v, remarks %q, error %v", tree, remarks, err)
	}
}
