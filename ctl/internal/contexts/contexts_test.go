package contexts

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "contexts.yaml")
	if _, err := Read(path); !errors.Is(err, ErrNoFile) {
		t.Fatalf("error %v, want ErrNoFile", err)
	}
	want := &File{}
	want.Set(Context{Name: "a", Controller: "a:7400", CA: "ca\n", Certificate: "cert\n", Key: "key\n"})
	want.Set(Context{Name: "b", Controller: "b:7400"})
	want.Set(Context{Name: "a", Controller: "a2:7400"})
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	c, err := got.Get("")
	if err != nil || c.Controller != "a2:7400" || len(got.Contexts) != 2 {
		t.Errorf("current context %+v, %v", c, err)
	}
	if _, err := got.Get("zz"); !errors.Is(err, ErrNoContext) {
		t.Errorf("error %v, want ErrNoContext", err)
	}
}

func TestExposedFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "contexts.yaml")
	if err := (&File{}).Write(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); !errors.Is(err, ErrExposed) {
		t.Fatalf("error %v, want ErrExposed", err)
	}
}
