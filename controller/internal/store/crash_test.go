package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// crashPath in the environment makes the test binary a writer that never stops by itself.
const crashPath = "LTSP_TEST_CRASH_DATABASE"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashPath); path != "" {
		if err := writeForEver(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeForEver publishes version after version and says the number of each as soon as the store has confirmed it.
func writeForEver(path string) error {
	s, err := store.Open(store.Config{Path: path})
	if err != nil {
		return err
	}
	for {
		var number uint64
		err := s.Update(context.Background(), &store.Change{Actor: "writer", Action: "publish"}, func(tx *store.Tx) error {
			image, _, err := tx.Images().Find("lab")
			if err != nil {
				return err
			}
			number = image.LastNumber + 1
			image = fleet.Image{Name: "lab", LastNumber: number, Channels: map[string]fleet.Channel{"stable": {Name: "stable", Version: number}}}
			id := manifest.ID{byte(number), byte(number >> 8), byte(number >> 16)}
			v := fleet.Version{Image: "lab", Number: number, ID: id, Note: strings.Repeat("n", int(number%977))}
			return errors.Join(tx.Images().Put("lab", image), tx.PutVersion(v, []byte(strings.Repeat("m", int(number*131%50000)))))
		})
		if err != nil {
			return err
		}
		fmt.Println(number)
	}
}

// Killed at any moment, the store opens again, holds all that it had confirmed, and nothing by halves.
func TestKillWhileWriting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	var confirmed uint64
	for round := range 6 {
		confirmed = max(confirmed, runAndKill(t, path, 1+round*7))
		checkAfterCrash(t, path, confirmed)
	}
	if confirmed < 6 {
		t.Errorf("only %d versions were written", confirmed)
	}
}

// runAndKill lets the writer confirm n versions, kills it in the middle of whatever it does next, and returns the last number it confirmed.
func runAndKill(t *testing.T, path string, n int) uint64 {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), crashPath+"="+path)
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
	for range n {
		if !lines.Scan() {
			t.Fatal("the writer ended by itself")
		}
		if _, err := fmt.Sscan(lines.Text(), &last); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // what it confirmed before the signal came
		if _, err := fmt.Sscan(lines.Text(), &last); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait() // it was killed
	return last
}

func checkAfterCrash(t *testing.T, path string, confirmed uint64) {
	t.Helper()
	s, err := store.Open(store.Config{Path: path})
	if err != nil {
		t.Fatalf("open after the crash: %v", err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := s.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
	err = s.View(t.Context(), func(tx *store.Tx) error {
		image, err := tx.Images().Get("lab")
		if err != nil {
			return err
		}
		// One more than confirmed is possible: it was durable when the writer died before it could say so.
		if image.LastNumber < confirmed || image.LastNumber > confirmed+1 || image.Channels["stable"].Version != image.LastNumber {
			t.Errorf("image %+v, %d versions were confirmed", image, confirmed)
		}
		versions, err := tx.VersionsOf("lab")
		if uint64(len(versions)) != image.LastNumber {
			t.Errorf("%d versions, the last number is %d", len(versions), image.LastNumber)
		}
		for _, v := range versions {
			byID, ok, err := tx.VersionByID(v.ID)
			signed, err2 := tx.Manifest("lab", v.Number)
			if !ok || byID.Number != v.Number || uint64(len(signed)) != v.Number*131%50000 {
				t.Errorf("version %d is there by halves", v.Number)
			}
			if err := errors.Join(err, err2); err != nil {
				return err
			}
		}
		entries, err2 := tx.ListAudit(0, 1<<20, "")
		if uint64(len(entries)) != image.LastNumber {
			t.Errorf("%d audit entries for %d versions", len(entries), image.LastNumber)
		}
		return errors.Join(err, err2)
	})
	if err != nil {
		t.Error(err)
	}
}
