// Package testtree makes small root directories for tests and shows what has become of them. Only tests import it.
package testtree

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// New makes a root from path to content; "-> x" is a link to x, a path that ends in "/" a directory, content that begins with "#!" executable.
func New(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		Put(t, dir, name, content)
	}
	return dir
}

// Put adds one entry to a root, as New does.
func Put(t testing.TB, dir, name, content string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	switch target, link := strings.CutPrefix(content, "-> "); {
	case strings.HasSuffix(name, "/"):
		err = os.MkdirAll(file, 0o755)
	case link:
		err = os.Symlink(target, file)
	case strings.HasPrefix(content, "#!"):
		err = os.WriteFile(file, []byte(content), 0o755)
	default:
		err = os.WriteFile(file, []byte(content), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Read returns the content of a file below the root; links are followed as this machine does.
func Read(t testing.TB, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Show returns the root in the form that New takes, empty directories left out.
func Show(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		if d.Type() == fs.ModeSymlink {
			target, err := os.Readlink(file)
			found[name] = "-> " + target
			return err
		}
		b, err := os.ReadFile(file)
		found[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
