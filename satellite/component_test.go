//go:build component

package satellite

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/chunksync"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/health"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore/versiontest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream/fakecontroller"
)

// serveEnv makes the test binary a satellite: it holds a config.Local in JSON.
const serveEnv = "LTSP_SATELLITE_TEST_SERVE"

func TestMain(m *testing.M) {
	if text := os.Getenv(serveEnv); text != "" {
		if err := serveForTest(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serveForTest(text string) error {
	var local config.Local
	if err := json.Unmarshal([]byte(text), &local); err != nil {
		return err
	}
	s, err := New(Config{Local: local, Build: "test", Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	return s.Run(context.Background())
}

// process is the box as a process of its own, which can be killed.
type process struct {
	*box
	cmd *exec.Cmd
	log bytes.Buffer
}

func (p *process) spawn() {
	p.t.Helper()
	text, err := json.Marshal(p.local)
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), serveEnv+"="+string(text))
	p.cmd.Stderr = &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// kill is kill -9.
func (p *process) kill() {
	p.t.Helper()
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended
	_ = p.cmd.Wait()
	p.cmd = nil
}

func newProcess(t *testing.T, c *fakecontroller.Controller) *process {
	p := &process{box: joined(t, c)}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("log of the satellite:\n%s", p.log.String())
		}
	})
	return p
}

// same compares the export, fetched by nbdcopy, with the disk that the version describes.
func (p *process) same(v *versiontest.Version) {
	p.t.Helper()
	to := filepath.Join(p.t.TempDir(), "copy")
	uri := fmt.Sprintf("nbd://127.0.0.1:%d/%s", p.local.NBDPort, v.Manifest.ExportName())
	if out, err := exec.CommandContext(p.t.Context(), "nbdcopy", uri, to).CombinedOutput(); err != nil {
		p.t.Fatalf("nbdcopy: %v\n%s", err, out)
	}
	got, err := os.ReadFile(to)
	if err != nil {
		p.t.Fatal(err)
	}
	if !bytes.Equal(got, v.Disk) {
		p.t.Fatal("the export differs from the published disk")
	}
}

func TestKillDuringSync(t *testing.T) {
	c := fakecontroller.Start(t)
	v := versiontest.Image(t, c.Key, "lab", 1, 1, versiontest.Data(1, 20_000_000), 100_000)
	c.Want(loopback, v)
	gate := make(chan struct{})
	c.Do(func(c *fakecontroller.Controller) { c.Gate = gate })
	p := newProcess(t, c)
	total := len(v.Chunks)
	for range 6 {
		p.spawn()
		for range rand.N(total / 8) {
			select {
			case gate <- struct{}{}:
			case <-time.After(patience):
				t.Fatal("no chunk is asked for")
			}
		}
		p.kill()
	}
	close(gate)
	p.spawn()
	p.until("the version", verified(1))
	p.same(v)
	c.Do(func(c *fakecontroller.Controller) {
		// What was on its way at each of the six kills may have come twice.
		if most := total + 6*chunksync.DefaultStreams*10; c.Fetched > most {
			t.Errorf("%d chunks fetched for %d, want at most %d", c.Fetched, total, most)
		}
	})
}

func TestKillWhileServing(t *testing.T) {
	c := fakecontroller.Start(t)
	v := versiontest.Image(t, c.Key, "lab", 1, 1, versiontest.Data(1, 5_000_000), 100_000)
	c.Want(loopback, v)
	p := newProcess(t, c)
	p.spawn()
	p.until("the version", verified(1))
	c.Stop()
	for range 3 {
		p.kill()
		p.spawn()
		p.until("the version", verified(1))
		p.same(v)
	}
}

func TestWANCutInTheMiddle(t *testing.T) {
	c := fakecontroller.Start(t)
	v := versiontest.Image(t, c.Key, "lab", 1, 1, versiontest.Data(1, 20_000_000), 100_000)
	c.Want(loopback, v)
	c.Do(func(c *fakecontroller.Controller) { c.CutAfter = 60 })
	p := newProcess(t, c)
	p.spawn()
	p.until("the cut", func(s health.Status) bool { return !s.Connected && len(s.Versions) == 1 && s.Versions[0].BytesDone > 0 })
	c.Restart(t)
	p.until("the version", verified(1))
	p.same(v)
	c.Do(func(c *fakecontroller.Controller) {
		// On its way may be of each stream what the windows hold, and what the controller and the satellite have in hand.
		if most := len(v.Chunks) + chunksync.DefaultStreams*10; c.Fetched > most {
			t.Errorf("%d chunks fetched for %d", c.Fetched, len(v.Chunks))
		}
	})
}

func TestBitFlipOnTheDisk(t *testing.T) {
	c := fakecontroller.Start(t)
	v := versiontest.Image(t, c.Key, "lab", 1, 1, versiontest.Data(1, 5_000_000), 100_000)
	c.Want(loopback, v)
	p := newProcess(t, c)
	p.spawn()
	p.until("the version", verified(1))
	p.kill()
	f, err := os.OpenFile(filepath.Join(p.local.DataDir, "images", v.ID.String(), "disk"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{v.Disk[3_333_333] ^ 1}, 3_333_333); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var before int
	c.Do(func(c *fakecontroller.Controller) { before = c.Fetched })
	p.spawn()
	p.until("the repaired version", verified(1))
	p.same(v)
	c.Do(func(c *fakecontroller.Controller) {
		if n := c.Fetched - before; n != 1 {
			t.Errorf("%d chunks fetched for the repair, want 1", n)
		}
	})
}

// smallDisk mounts a tmpfs as the data directory's file system and moves the identity onto it.
func smallDisk(t *testing.T, p *process, size string) {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount a small disk (this test needs root): %v", err)
	}
	t.Cleanup(func() {
		p.kill()
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	text, err := os.ReadFile(filepath.Join(p.local.DataDir, "identity.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "identity.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	p.local.DataDir = dir
}

func problem(text string) func(health.Status) bool {
	return func(s health.Status) bool { return strings.Contains(strings.Join(s.Problems, "\n"), text) }
}

func TestDiskTooSmall(t *testing.T) {
	c := fakecontroller.Start(t)
	v := versiontest.Image(t, c.Key, "lab", 1, 1, versiontest.Data(1, 20_000_000), 100_000)
	c.Want(loopback, v)
	p := newProcess(t, c)
	smallDisk(t, p, "10m")
	p.spawn()
	s := p.until("the problem", problem("lacks 1"))
	if s.Versions[0].State != "failed" || s.Versions[0].BytesFetched != 0 {
		t.Errorf("version is %+v", s.Versions[0])
	}
	if err := syscall.Mount("tmpfs", p.local.DataDir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	s = p.until("the version on the larger disk", verified(1))
	if problem("lacks")(s) {
		t.Errorf("the problem is still told: %v", s.Problems)
	}
	p.same(v)
}

func TestDiskFullInTheMiddle(t *testing.T) {
	c := fakecontroller.Start(t)
	v := versiontest.Image(t, c.Key, "lab", 1, 1, versiontest.Data(1, 20_000_000), 100_000)
	c.Want(loopback, v)
	gate := make(chan struct{})
	c.Do(func(c *fakecontroller.Controller) { c.Gate = gate })
	p := newProcess(t, c)
	smallDisk(t, p, "30m")
	p.spawn()
	for range 50 {
		gate <- struct{}{}
	}
	p.until("the middle", func(s health.Status) bool { return len(s.Versions) == 1 && s.Versions[0].BytesDone >= 4_000_000 })
	// Somebody else fills the disk.
	hog := filepath.Join(p.local.DataDir, "hog")
	_ = os.WriteFile(hog, make([]byte, 30<<20), 0o600) // it fails when the disk is full, which is the purpose
	close(gate)
	p.until("the problem", problem("no space on the disk"))
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	p.until("the version", verified(1))
	p.same(v)
}

// delivery is a controller that offers a delta between two real images; a satellite has the first and is to get the second.
func delivery(t *testing.T) (c *fakecontroller.Controller, p *process, old, new *versiontest.Version, file []byte) {
	t.Helper()
	c = fakecontroller.Start(t)
	tr := versiontest.NewTree(t)
	old = tr.Image(c.Key, 1)
	tr.Update()
	new = tr.Image(c.Key, 2)
	file, plan := versiontest.MakeDelta(t, old, new)
	c.Do(func(c *fakecontroller.Controller) {
		c.Deltas[plan.SHA256] = file
		c.Plans[new.ID] = &satellitev1.PlanSyncResponse{
			Plan:  &satellitev1.SyncPlan{Method: satellitev1.SyncMethod_SYNC_METHOD_DELTA, Reason: "cheapest", BaseId: plan.Base[:], WireBytes: uint64(plan.Size)},
			Delta: &satellitev1.DeltaFile{Sha256: plan.SHA256[:], SizeBytes: uint64(plan.Size), IndexBytes: uint64(plan.IndexBytes)}}
	})
	c.Want(loopback, old)
	p = newProcess(t, c)
	p.spawn()
	p.until("the first version", verified(1))
	return c, p, old, new, file
}

func TestBootsFromADeltaThatIsStillArriving(t *testing.T) {
	c, p, _, v, file := delivery(t)
	gate := make(chan struct{}, 1)
	gate <- struct{}{} // the index
	c.Do(func(c *fakecontroller.Controller) { c.Gate = gate })
	c.Want(loopback, v)
	// The kernel lies in the squashfs: reading it there takes groups.
	stop := make(chan struct{})
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		for {
			select {
			case gate <- struct{}{}:
				<-time.After(20 * time.Millisecond)
			case <-stop:
				return
			}
		}
	}()
	p.until("serving", func(s health.Status) bool {
		return len(s.Versions) == 1 && s.Versions[0].State == "serving" || verified(2)(s)
	})
	p.same(v)
	close(stop)
	<-fed
	close(gate)
	s := p.until("the version", verified(2))
	if s.Versions[0].Method != "delta" {
		t.Errorf("version came by %+v", s.Versions[0])
	}
	p.same(v)
	c.Do(func(c *fakecontroller.Controller) {
		if c.DeltaBytes < len(file) || c.DeltaBytes > 2*len(file) {
			t.Errorf("%d bytes of a delta of %d were sent", c.DeltaBytes, len(file))
		}
	})
}

func TestKillDuringRebuild(t *testing.T) {
	c, p, old, v, file := delivery(t)
	c.Want(loopback, v)
	for range 12 {
		<-time.After(time.Duration(rand.N(1500)) * time.Millisecond)
		p.kill()
		p.spawn()
	}
	p.until("the version", verified(2))
	p.same(v)
	if info, err := os.Stat(filepath.Join(p.local.DataDir, "images", old.ID.String())); err != nil || !info.IsDir() {
		t.Errorf("the former version is gone (%v)", err)
	}
	c.Do(func(c *fakecontroller.Controller) {
		t.Logf("%d bytes of a delta of %d were sent", c.DeltaBytes, len(file))
	})
}

// What a client reads first is told to the controller.
func TestBootTrace(t *testing.T) {
	c := fakecontroller.Start(t)
	v := versiontest.Image(t, c.Key, "lab", 1, 1, versiontest.Data(1, 5_000_000), 100_000)
	c.Want(loopback, v)
	p := newProcess(t, c)
	p.spawn()
	p.until("the version", verified(1))
	p.same(v)
	select {
	case trace := <-c.Traces:
		var sum uint64
		for _, r := range trace.GetRanges() {
			sum += uint64(r.GetLength())
		}
		if !bytes.Equal(trace.GetId(), v.ID[:]) || trace.GetBoots() != 1 || sum != uint64(len(v.Disk)) {
			t.Errorf("trace of %x with %d bytes in %d ranges, want %d bytes", trace.GetId(), sum, len(trace.GetRanges()), len(v.Disk))
		}
	case <-time.After(patience):
		t.Fatal("no trace")
	}
}
