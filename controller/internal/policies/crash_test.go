package policies_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/policies"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
)

// crashDir in the environment makes the test binary a writer that never stops by itself.
const crashDir = "LTSP_TEST_CRASH_POLICIES"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, applyForEver(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func openDir(ctx context.Context, dir string) (*store.Store, *policies.Keeper, error) {
	s, err := store.Open(store.Config{Path: filepath.Join(dir, "db")})
	if err != nil {
		return nil, nil, err
	}
	k, err := policies.New(ctx, policies.Config{Store: s, Dir: filepath.Join(dir, "policy")})
	return s, k, err
}

// applyForEver applies version after version, and undoes every third, and says the number of each as soon as it is confirmed.
func applyForEver(dir string) error {
	ctx := context.Background()
	_, k, err := openDir(ctx, dir)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		archive := bytes.Repeat(fmt.Appendf(nil, "%d of %d\n", n, os.Getpid()), 1+n*37%500)
		v, _, err := k.Apply(ctx, "writer", policies.Draft{Archive: archive})
		if err != nil {
			return err
		}
		fmt.Println(v.Number)
		if n%3 == 2 {
			if v, err = k.Undo(ctx, "writer", fleet.Scope{}, 0); err != nil {
				return err
			}
			fmt.Println(v.Number)
		}
	}
}

// Killed at any moment, each version that is kept has its archive, what was confirmed is there, and nothing else takes space.
func TestKillWhileApplying(t *testing.T) {
	dir := t.TempDir()
	var confirmed uint64
	for round := range 6 {
		confirmed = max(confirmed, runAndKill(t, dir, 2+round*9))
		checkAfterCrash(t, dir, confirmed)
	}
	if confirmed < 6 {
		t.Errorf("only %d versions were applied", confirmed)
	}
}

// runAndKill lets the writer confirm n versions, kills it in the middle of whatever it does next, and returns the last number it confirmed.
func runAndKill(t *testing.T, dir string, n int) uint64 {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var last uint64
	lines := bufio.NewScanner(out)
	for i := 0; lines.Scan(); i++ {
		if _, err := fmt.Sscan(lines.Text(), &last); err != nil {
			t.Fatal(err)
		}
		if i == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // it was killed
	return last
}

func checkAfterCrash(t *testing.T, dir string, confirmed uint64) {
	t.Helper()
	s, k, err := openDir(t.Context(), dir)
	if err != nil {
		t.Fatalf("open after the crash: %v", err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	var present fleet.PolicyVersion
	var versions []fleet.PolicyVersion
	err = s.View(t.Context(), func(tx *store.Tx) (err error) {
		if present, err = tx.Policies().Get("organisation"); err != nil {
			return err
		}
		versions, err = tx.PolicyVersions("organisation")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// One more than confirmed is possible: it was durable when the writer died before it could say so.
	if present.Number < confirmed || present.Number > confirmed+1 {
		t.Errorf("version %d is present, %d were confirmed", present.Number, confirmed)
	}
	if want := min(present.Number, fleet.MaxPolicyVersions); uint64(len(versions)) != want {
		t.Errorf("%d versions are kept, want %d", len(versions), want)
	}
	archives := make(map[fleet.Hash]bool)
	for _, v := range versions {
		archives[v.SHA256] = true
		if b, err := k.Read(v.SHA256); err != nil || uint64(len(b)) != v.SizeBytes {
			t.Errorf("version %d: archive of %d bytes, %v", v.Number, len(b), err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, "policy"))
	if err != nil || len(entries) != len(archives) {
		t.Errorf("%d files for %d archives, %v", len(entries), len(archives), err)
	}
}
