package rundir

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWriteRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var got KeeperState
	if err := Read(root, Keeper, &got); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, reconnects := range []uint64{1, 2} {
		want := KeeperState{Satellite: "192.168.67.1:10809", Connected: true, Reconnects: reconnects, Since: time.Unix(1, 0).UTC()}
		if err := Write(root, Keeper, want); err != nil {
			t.Fatal(err)
		}
		got = KeeperState{}
		if err := Read(root, Keeper, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 1 {
		t.Errorf("left over: %v", files)
	}
	if err := root.WriteFile(Keeper, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Read(root, Keeper, &got); err == nil {
		t.Error("half a file was read")
	}
}
