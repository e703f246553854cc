//go:build component

package integration

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

const (
	patience = 90 * time.Second // bounds each wait; it says nothing about how long things take
	megabyte = 1 << 20
)

// fleet is a school in which things go wrong. Its methods end the test on an error that has nothing to do with what is tested.
type fleet struct {
	*school.School
	t *testing.T
}

// newFleet makes the networks and a running controller with one site. When the test fails, logs stay in the directory that it names.
func newFleet(t *testing.T, prefix string) *fleet {
	t.Helper()
	f := newNetworks(t, prefix)
	f.startFirst()
	return f
}

// needBinaries ends the test if it was not given built binaries.
func needBinaries(t *testing.T) {
	t.Helper()
	for _, name := range []string{"LTSP_BIN", "LTSP_CACHE"} {
		if os.Getenv(name) == "" {
			t.Fatalf("%s is not set: these tests run built binaries; run them by \"make component\"", name)
		}
	}
	// That the binaries are looked at here also keeps "go test" from repeating an old result for new ones.
	for _, name := range []string{"ltsp-controller", "ltsp-satellite", "ltspctl"} {
		if _, err := os.Stat(filepath.Join(os.Getenv("LTSP_BIN"), name)); err != nil {
			t.Fatalf("%v: build the binaries first, by \"make build\"", err)
		}
	}
}

// newNetworks makes the networks only.
func newNetworks(t *testing.T, prefix string) *fleet {
	t.Helper()
	needBinaries(t)
	dir, err := os.MkdirTemp("", "ltsp-"+prefix+"-") //nolint:usetesting // what it holds stays when the test fails
	if err != nil {
		t.Fatal(err)
	}
	s, err := school.New(t.Context(), school.Config{Bin: os.Getenv("LTSP_BIN"), Cache: os.Getenv("LTSP_CACHE"), Dir: dir, Prefix: prefix, Log: func(format string, args ...any) {
		if !strings.Contains(format, "runs as pid") { // a test starts hundreds of programs
			t.Logf(format, args...)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{School: s, t: t}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			f.showLogs()
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return f
}

// showLogs shows the end of each daemon's log, for CI where nobody can look at files.
func (f *fleet) showLogs() {
	f.t.Logf("evidence is in %s", f.Dir)
	logs, _ := filepath.Glob(filepath.Join(f.Dir, "*.log"))
	for _, path := range logs {
		if data, err := os.ReadFile(path); err == nil {
			f.t.Logf("end of %s:\n%s", filepath.Base(path), data[max(0, len(data)-5000):])
		}
	}
}

// startFirst makes and starts the controller, with one site.
func (f *fleet) startFirst() {
	f.t.Helper()
	f.must(f.InitController(f.ctx()))
	f.startController()
	f.must(f.Do(f.ctx(), "site", "create", school.Site, "--image", school.ImageName+":"+school.Channel))
	f.must(f.Do(f.ctx(), "subnet", "create", school.Subnet, "--site", school.Site, "--cidr", school.SubnetCIDR,
		"--range", "192.168.67.20-192.168.67.150", "--gateway", "192.168.67.1", "--dns", "192.168.67.1"))
	f.must(f.Do(f.ctx(), "image", "publish-bootloaders"))
}

// in is the fleet for a subtest.
func (f *fleet) in(t *testing.T) *fleet { return &fleet{School: f.School, t: t} }

// ctx bounds one step. Daemons outlive it. It ends with the test at the latest.
func (f *fleet) ctx() context.Context {
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	f.t.Cleanup(cancel)
	return ctx
}

func (f *fleet) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) startController() {
	f.t.Helper()
	f.must(f.StartController(f.ctx()))
}

// start starts an enrolled satellite.
func (f *fleet) start(name string) {
	f.t.Helper()
	f.must(f.StartSatellite(f.ctx(), name))
}

// joined adds a satellite and starts it.
func (f *fleet) joined(j school.Joining) {
	f.t.Helper()
	f.must(f.Join(f.ctx(), j))
	f.start(j.Name)
}

// image makes a synthetic image of about so many bytes.
func (f *fleet) image(seed uint64, bytes int64) string {
	f.t.Helper()
	file := filepath.Join(f.Dir, fmt.Sprintf("image%d.squashfs", seed))
	f.must(f.MakeImage(f.ctx(), file, school.Synthetic{Seed: seed, Bytes: bytes}))
	return file
}

func (f *fleet) publish(p school.Publishing) *school.Published {
	f.t.Helper()
	published, err := f.PublishSynthetic(f.ctx(), p)
	f.must(err)
	return published
}

// pc makes a host in the classroom that runs other people's programs.
func (f *fleet) pc(name string, addrs ...string) *testnet.Host {
	f.t.Helper()
	host, err := f.Lab.Host(name, f.LAN.At(addrs...))
	f.must(err)
	return host
}

// held is what the controller knows of a version on a satellite. ok is false if it knows nothing.
func (f *fleet) held(satellite, id string) (state string, done, total, fetched uint64, ok bool) {
	f.t.Helper()
	info, err := f.SatelliteInfo(f.ctx(), satellite)
	f.must(err)
	for _, v := range info.Versions {
		if v.ID == id {
			return v.State, v.BytesDone, v.BytesTotal, v.BytesFetched, true
		}
	}
	return "", 0, 0, 0, false
}

// awaitVersion waits until a satellite has a version verified and returns how many bytes it fetched since its start.
func (f *fleet) awaitVersion(satellite, id string) (fetched uint64) {
	f.t.Helper()
	f.must(f.Await(f.ctx(), satellite+" has version "+id[:8]+" verified", func() error {
		state, done, total, got, ok := f.held(satellite, id)
		if !ok || state != "verified" {
			info, err := f.SatelliteInfo(f.ctx(), satellite)
			return fmt.Errorf("state %q, %d of %d bytes; %+v, %v", state, done, total, info, err)
		}
		fetched = got
		return nil
	}))
	return fetched
}

// awaitState waits until the controller says so of a satellite.
func (f *fleet) awaitState(satellite, state string) {
	f.t.Helper()
	f.must(f.Await(f.ctx(), satellite+" is "+state, func() error {
		info, err := f.SatelliteInfo(f.ctx(), satellite)
		if err == nil && info.State != state {
			err = fmt.Errorf("it is %s", info.State)
		}
		return err
	}))
}

// awaitProblem waits until a satellite complains with all of the words, and returns the line.
func (f *fleet) awaitProblem(satellite string, words ...string) (line string) {
	f.t.Helper()
	f.must(f.Await(f.ctx(), fmt.Sprintf("%s complains of %q", satellite, words), func() error {
		info, err := f.SatelliteInfo(f.ctx(), satellite)
		if err != nil {
			return err
		}
		for _, line = range info.Problems {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return nil
			}
		}
		return fmt.Errorf("its problems are %q", info.Problems)
	}))
	return line
}

// awaitBytes waits until a relay has passed so many bytes on; up or down chooses the direction.
func (f *fleet) awaitBytes(what string, count func() int64, target int64) {
	f.t.Helper()
	ctx := f.ctx()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for count() < target {
		select {
		case <-ctx.Done():
			f.t.Fatalf("%s: %d of %d bytes have passed", what, count(), target)
		case <-tick.C:
		}
	}
}

func up(r *testnet.Relay) func() int64 {
	return func() int64 { n, _ := r.Forwarded(); return n }
}

func down(r *testnet.Relay) func() int64 {
	return func() int64 { _, n := r.Forwarded(); return n }
}

// sum is the SHA-256 of a file, and its size.
func (f *fleet) sum(path string) (string, int64) {
	f.t.Helper()
	in, err := os.Open(path)
	f.must(err)
	defer in.Close()
	h := sha256.New()
	n, err := io.Copy(h, in)
	f.must(err)
	return hex.EncodeToString(h.Sum(nil)), n
}

// versionsOn lists the version IDs in a directory of a satellite: "images" or "incoming".
func (f *fleet) versionsOn(satellite, dir string) []string {
	f.t.Helper()
	entries, err := os.ReadDir(filepath.Join(f.DataDir(satellite), dir))
	if !errors.Is(err, fs.ErrNotExist) {
		f.must(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// chunkFiles checks that each chunk on the controller's disk is whole and returns the bytes of all.
func (f *fleet) chunkFiles() (bytes uint64) {
	f.t.Helper()
	dir := filepath.Join(f.DataDir("controller"), "chunks")
	f.must(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Base(filepath.Dir(path)) == "tmp" {
			return err
		}
		sum, n := f.sum(path)
		if sum != d.Name() {
			f.t.Errorf("chunk file %s holds %d bytes with SHA-256 %s", d.Name(), n, sum)
		}
		bytes += uint64(n)
		return nil
	}))
	return bytes
}

// imageInfo is what `ltspctl image show -o json` says, as far as tests look.
type imageInfo struct {
	Name     string `json:"name"`
	Versions []struct {
		Number uint64 `json:"number"`
		ID     string `json:"id"`
		SHA256 string `json:"sha256"`
	} `json:"versions"`
	Channels []struct {
		Name    string `json:"name"`
		Version uint64 `json:"version"`
	} `json:"channels"`
}

// showImage returns what the controller knows of an image; nil if there is none.
func (f *fleet) showImage(name string) *imageInfo {
	f.t.Helper()
	info := new(imageInfo)
	err := f.CtlJSON(f.ctx(), info, "image", "show", name)
	if school.ExitCode(err) == 3 {
		return nil
	}
	f.must(err)
	return info
}

// logHas tells whether the log of a daemon has a line with all of the words.
func (f *fleet) logHas(daemon string, words ...string) bool {
	data, err := os.ReadFile(f.LogFile(daemon))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return true
		}
	}
	return false
}

// points is a source of random points for a test, which it tells apart from other tests by stream. LTSP_SEED=N in the environment
// chooses others.
func points(t *testing.T, stream uint64) *rand.Rand {
	t.Helper()
	seed := uint64(20260509)
	if text := os.Getenv("LTSP_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("LTSP_SEED: %v", err)
		}
	}
	t.Logf("random points of seed %d", seed)
	return rand.New(rand.NewPCG(seed, stream))
}

// flip changes one bit of a file.
func flip(f *fleet, path string, offset int64, random *rand.Rand) {
	f.t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	f.must(err)
	defer file.Close()
	var b [1]byte
	_, err = file.ReadAt(b[:], offset)
	f.must(err)
	b[0] ^= 1 << random.IntN(8)
	_, err = file.WriteAt(b[:], offset)
	f.must(err)
}
