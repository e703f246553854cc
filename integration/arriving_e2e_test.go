//go:build e2e

package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// TestBootWhileArriving boots a PC into a version of which less than a fifth has come over a line of 2 Mbit/s even when the PC is healthy, and
// then compares all of it.
//
// The site's time window closes when the version can be booted: from then on only what the PC waits for moves, so that how far the transfer
// is does not depend on how quick this machine is.
func TestBootWhileArriving(t *testing.T) {
	const line, application, share = 250_000, 64 << 20, 20
	s := open(t, "e2earr", school.Opening{Line: true})
	base, err := s.Image(t.Context())
	must(t, err)
	file, err := s.Update(t.Context(), application)
	must(t, err)
	must(t, s.Do(t.Context(), "site", "set", school.Site, "--transfer", "delta")) // the line was quick until now
	s.Uplink.SetRate(line)
	_, begin := s.Uplink.Forwarded()
	must(t, s.PublishUpdate(t.Context(), file, base))
	version, err := s.Version(t.Context(), 2)
	must(t, err)
	sync := awaitServing(t, s)
	percent := func() float64 { // of the delta's length, whatever it was that came
		_, now := s.Uplink.Forwarded()
		return 100 * float64(now-begin) / float64(sync.Wire)
	}
	must(t, s.Do(t.Context(), "site", "set", school.Site, "--window", closed()))
	quiet(t, s.Uplink)
	before := percent()
	t.Logf("%s; %.1f %% of it is here when the PC is switched on", sync.Reason, before)

	_, client := boot(t, s, testvm.Machine{Name: "early", MAC: mac("21")})
	healthy := percent()
	now, err := s.Sync(t.Context(), "sat1", sync.Version)
	must(t, err)
	t.Logf("the PC is healthy with %.1f %% of the delta on the line, %.1f %% proven", healthy, 100*float64(now.Fetched)/float64(sync.Wire))
	if client.Report.Version != "lab@2" || client.Report.Digest != version.Digest {
		t.Errorf("the PC runs %s with digest %s, want lab@2 with %s", client.Report.Version, client.Report.Digest, version.Digest)
	}
	if healthy >= share {
		t.Errorf("%.1f %% of the delta had come when the PC was healthy, want less than %d %%", healthy, share)
	}
	if _, err := os.Stat(filepath.Join(s.DataDir("sat1"), "images", version.ID)); err == nil {
		t.Error("the version is complete outside the time window")
	}

	s.Uplink.SetRate(0)
	must(t, s.Do(t.Context(), "site", "set", school.Site, "--window", ""))
	must(t, s.AwaitVerified(t.Context(), "sat1", 2))
	must(t, sameDisk(t.Context(), filepath.Join(s.DataDir("sat1"), "images", version.ID, "disk"), file, version.Digest))
	// The satellite keeps nothing that could be taken for the version.
	if entries, err := os.ReadDir(filepath.Join(s.DataDir("sat1"), "incoming")); err != nil || len(entries) > 0 {
		t.Errorf("incoming holds %v, %v", entries, err)
	}
	after, err := s.Client(t.Context(), mac("21"))
	must(t, err)
	if after.Report == nil || after.Report.State != "healthy" {
		t.Errorf("the PC is %+v when all has arrived", after.Report)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// awaitServing waits until PCs can boot version 2 while it arrives by delta.
func awaitServing(t *testing.T, s *school.School) *school.SyncInfo {
	t.Helper()
	var sync *school.SyncInfo
	must(t, s.Await(t.Context(), "version 2 is served while it arrives", func() (err error) {
		if sync, err = s.Sync(t.Context(), "sat1", "lab@2"); err != nil {
			return err
		}
		if sync.State != "serving" || sync.Method != "delta" {
			return fmt.Errorf("it is %+v", sync)
		}
		return nil
	}))
	return sync
}

// closed is a time window that does not open within the test.
func closed() string {
	now := time.Now()
	return now.Add(2*time.Hour).Format("15:04") + "-" + now.Add(3*time.Hour).Format("15:04")
}

// quiet waits until hardly anything has come over a line for a while.
func quiet(t *testing.T, line *testnet.Relay) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for last := int64(-1 << 20); ; {
		_, now := line.Forwarded()
		if now-last < 8<<10 {
			return
		}
		last = now
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the line does not become quiet")
		}
	}
}

// sameDisk compares all bytes of a disk with a squashfs, its padding and its hash tree, whose root must be the digest.
func sameDisk(ctx context.Context, disk, file, digest string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	tree, err := os.CreateTemp("", "tree-")
	if err != nil {
		return err
	}
	defer os.Remove(tree.Name())
	defer tree.Close()
	padded, size := verity.Padded(in, info.Size()), verity.PaddedSize(uint64(info.Size()))
	root, err := verity.Compute(ctx, padded, size, tree, 0)
	if err != nil {
		return err
	}
	if root.String() != digest {
		return fmt.Errorf("the digest of %s is %s, want %s", file, root, digest)
	}
	if _, err := tree.Seek(0, io.SeekStart); err != nil {
		return err
	}
	got, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer got.Close()
	return sameBytes(got, io.MultiReader(io.NewSectionReader(padded, 0, int64(size)), tree))
}

func sameBytes(got, want io.Reader) error {
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; at += 1 << 20 {
		n, errA := io.ReadFull(got, a)
		m, errB := io.ReadFull(want, b)
		if n != m || !bytes.Equal(a[:n], b[:m]) {
			return fmt.Errorf("the disk differs between byte %d and %d", at, at+int64(max(n, m)))
		}
		if errA != nil || errB != nil {
			if n < len(a) && m < len(b) {
				return nil
			}
			return fmt.Errorf("%w, %w", errA, errB)
		}
	}
}
