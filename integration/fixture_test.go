//go:build component

package integration

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

const (
	patience = 90 * time.Second // bounds each wait; it says nothing about how long things take
	megabyte = 1 << 20
)

// fleet is a school in which things go wrong. Its methods end the test on an error that has nothing to do with what is tested.
type fleet struct {
	*school.School
	t    *testing.T
	life context.Context // of the daemons
}

// newFleet makes the networks and a running controller with one site. When the test fails, logs stay in the directory that it names.
func newFleet(t *testing.T, prefix string) *fleet {
	t.Helper()
	f := newNetworks(t, prefix)
	f.startFirst()
	return f
}

// newNetworks makes the networks only.
func newNetworks(t *testing.T, prefix string) *fleet {
	t.Helper()
	for _, name := range []string{"LTSP_BIN", "LTSP_CACHE"} {
		if os.Getenv(name) == "" {
			t.Fatalf("%s is not set: these tests run built binaries; run them by \"make component\"", name)
		}
	}
	dir, err := os.MkdirTemp("", "ltsp-"+prefix+"-")
	if err != nil {
		t.Fatal(err)
	}
	s, err := school.New(t.Context(), school.Config{Bin: os.Getenv("LTSP_BIN"), Cache: os.Getenv("LTSP_CACHE"), Dir: dir, Prefix: prefix, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{School: s, t: t, life: t.Context()}
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
func (f *fleet) in(t *testing.T) *fleet { return &fleet{School: f.School, t: t, life: f.life} }

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
	f.must(f.StartController(f.life))
}

// start starts an enrolled satellite.
func (f *fleet) start(name string) {
	f.t.Helper()
	f.must(f.StartSatellite(f.life, name))
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

// export is one entry of `nbdinfo --list --json`.
type export struct {
	Name     string `json:"export-name"`
	Size     int64  `json:"export-size"`
	ReadOnly bool   `json:"is_read_only"`
	Multi    bool   `json:"can_multi_conn"`
}

// exports lists what an NBD server offers to a host.
func (f *fleet) exports(from *testnet.Host, server string) ([]export, error) {
	out, err := f.Run(f.ctx(), from, "nbdinfo", "--list", "--json", "nbd://"+server)
	if err != nil {
		return nil, err
	}
	var list struct {
		Exports []export `json:"exports"`
	}
	return list.Exports, json.Unmarshal([]byte(out), &list)
}

// offered tells whether an NBD server offers an export at the moment.
func (f *fleet) offered(from *testnet.Host, server, name string) bool {
	list, err := f.exports(from, server)
	return err == nil && slices.ContainsFunc(list, func(e export) bool { return e.Name == name })
}

// disk returns the SHA-256 and the size of the disk that a version of the squashfs must be: file, padding, hash tree. It fails
// unless the digest that the controller gave is that of the file.
func (f *fleet) disk(file string, published *school.Published) (sum string, size int64) {
	f.t.Helper()
	in, err := os.Open(file)
	f.must(err)
	defer in.Close()
	info, err := in.Stat()
	f.must(err)
	tree, err := os.CreateTemp(f.Dir, "tree-*")
	f.must(err)
	defer os.Remove(tree.Name())
	defer tree.Close()
	data := int64(verity.PaddedSize(uint64(info.Size())))
	padded := verity.Padded(in, info.Size())
	root, err := verity.Compute(f.ctx(), padded, uint64(data), tree, 0)
	f.must(err)
	if root.String() != published.Version.Digest {
		f.t.Fatalf("the controller says digest %s, the file's is %s", published.Version.Digest, root)
	}
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(padded, 0, data))
	f.must(err)
	m, err := io.Copy(h, tree)
	f.must(err)
	return hex.EncodeToString(h.Sum(nil)), n + m
}

// copyExport copies a whole export with nbdcopy.
func (f *fleet) copyExport(from *testnet.Host, server, name string) (copied string, err error) {
	f.t.Helper()
	copied = filepath.Join(f.Dir, "copied")
	if err := os.Remove(copied); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.t.Fatal(err)
	}
	_, err = f.Run(f.ctx(), from, "nbdcopy", "nbd://"+server+"/"+name, copied)
	return copied, err
}

// checkExport copies the export of a version and compares every byte with what was published.
func (f *fleet) checkExport(from *testnet.Host, server, file string, published *school.Published) {
	f.t.Helper()
	copied, err := f.copyExport(from, server, published.ExportName())
	if err != nil {
		f.t.Error(err)
		return
	}
	want, size := f.disk(file, published)
	if got, n := f.sum(copied); got != want || n != size {
		f.t.Errorf("export %s has SHA-256 %s in %d bytes, want %s in %d", published.ExportName(), got, n, want, size)
	}
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
	f.must(err)
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
