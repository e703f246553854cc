//go:build component

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
)

// tool runs `ltspctl delta` on two editions of an image. Its methods end the test on an error that has nothing to do with what is tested.
type tool struct {
	t         *testing.T
	dir       string
	old, next string
	delta     string // of the two, as soon as makeDelta was called
}

func newTool(t *testing.T, image school.Synthetic) *tool {
	t.Helper()
	needBinaries(t)
	x := &tool{t: t, dir: t.TempDir()}
	x.old, x.next, x.delta = x.path("old.squashfs"), x.path("new.squashfs"), x.path("delta")
	x.must(image.Pack(t.Context(), x.dir, x.old))
	image.Edition++
	x.must(image.Pack(t.Context(), x.dir, x.next))
	return x
}

func (x *tool) path(name string) string { return filepath.Join(x.dir, name) }

func (x *tool) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

// in is x for a subtest.
func (x *tool) in(t *testing.T) *tool {
	y := *x
	y.t = t
	return &y
}

// run runs `ltspctl delta` and returns what it printed, and its exit status.
func (x *tool) run(args ...string) (stdout, stderr string, code int) {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(os.Getenv("LTSP_BIN"), "ltspctl"), append([]string{"delta"}, args...)...)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		x.t.Fatal(err)
	}
	return out.String(), problem.String(), cmd.ProcessState.ExitCode()
}

// want runs `ltspctl delta`, which must end well.
func (x *tool) want(args ...string) string {
	x.t.Helper()
	out, problem, code := x.run(args...)
	if code != 0 {
		x.t.Fatalf("ltspctl delta %s: exit status %d: %s", strings.Join(args, " "), code, problem)
	}
	return out
}

// refused runs `ltspctl delta`, which must end with a status and these words.
func (x *tool) refused(what string, status int, words string, args ...string) {
	x.t.Helper()
	_, problem, code := x.run(args...)
	if code != status || !strings.Contains(problem, words) || strings.Contains(problem, "panic") || strings.Count(problem, "\n") > 3 {
		x.t.Errorf("%s: ltspctl delta %s: exit status %d, want %d and %q: %s", what, args[0], code, status, words, problem)
	}
}

// same compares two files.
func (x *tool) same(a, b string) bool {
	x.t.Helper()
	got, err := os.ReadFile(a)
	x.must(err)
	want, err := os.ReadFile(b)
	x.must(err)
	return bytes.Equal(got, want)
}

// files lists a directory.
func (x *tool) files(dir string) []string {
	x.t.Helper()
	entries, err := os.ReadDir(dir)
	x.must(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// makeDelta makes the delta and returns its size and how many bytes of it are the index.
func (x *tool) makeDelta() (size, index int64) {
	x.t.Helper()
	var stats struct {
		New        struct{ SHA256 string } `json:"new"`
		DeltaBytes int64                   `json:"delta_bytes"`
		IndexBytes int64                   `json:"index_bytes"`
	}
	x.must(json.Unmarshal([]byte(x.want("make", x.old, x.next, "-o", x.delta, "--format", "json")), &stats))
	info, err := os.Stat(x.delta)
	x.must(err)
	if info.Size() != stats.DeltaBytes || stats.IndexBytes <= 0 || stats.IndexBytes > stats.DeltaBytes {
		x.t.Errorf("the delta has %d bytes; ltspctl says %+v", info.Size(), stats)
	}
	return stats.DeltaBytes, stats.IndexBytes
}

// TestDeltaTool: the tool on files, against what mksquashfs makes.
func TestDeltaTool(t *testing.T) {
	t.Parallel()
	const fresh = 300 << 10
	for _, c := range []struct {
		compressor string
		exact      bool // its blocks can be made again
	}{{"zstd", true}, {"gzip", true}, {"xz", false}, {"lz4", false}} {
		t.Run(c.compressor, func(t *testing.T) {
			x := newTool(t, school.Synthetic{Seed: 11, Bytes: 2 * megabyte, Text: true, Fresh: fresh, Compressor: c.compressor})
			size, _ := x.makeDelta()
			info, err := os.Stat(x.next)
			x.must(err)
			t.Logf("an image of %d bytes, of which %d are new: delta of %d", info.Size(), fresh, size)
			if size < fresh || c.exact && size > fresh+fresh/4 || size > info.Size() {
				t.Errorf("the delta of an image of %d bytes has %d, of which %d are new", info.Size(), size, fresh)
			}
			x.want("verify", x.old, x.delta)
			x.want("apply", x.old, x.delta, "-o", x.path("out"))
			if !x.same(x.path("out"), x.next) {
				t.Error("what apply made is not the new image")
			}
		})
	}
}

// TestDeltaToolRefuses: wrong, damaged and half files are refused in one line, and nothing that was there is touched.
func TestDeltaToolRefuses(t *testing.T) {
	t.Parallel()
	x := newTool(t, school.Synthetic{Seed: 12, Bytes: megabyte, Text: true, Fresh: 100 << 10})
	size, index := x.makeDelta()
	data, err := os.ReadFile(x.delta)
	x.must(err)
	kept := x.path("kept")
	x.must(os.WriteFile(kept, []byte("it was here before"), 0o600))
	before := x.files(x.dir)
	both := func(what, words, old, delta string) {
		t.Helper()
		x.refused(what, 7, words, "verify", old, delta)
		x.refused(what, 7, words, "apply", old, delta, "-o", kept)
	}

	both("the new image as the old one", "not the base of this delta", x.next, x.delta)
	both("an image as a delta", "delta", x.old, x.next)
	x.refused("a delta as an image", 7, "squashfs", "make", x.delta, x.next, "-o", kept)
	x.refused("a delta as the new image", 7, "squashfs", "make", x.old, x.delta, "-o", kept)
	x.refused("no old image", 1, "no such file", "apply", x.path("nothing"), x.delta, "-o", kept)
	x.refused("no output", 2, "output", "apply", x.old, x.delta)

	random := points(t, 20)
	bad := x.path("bad")
	lengths := []int64{0, 1, index / 2, index - 1, index, size - 1}
	for range 4 {
		lengths = append(lengths, random.Int64N(size))
	}
	for _, n := range lengths {
		x.must(os.WriteFile(bad, data[:n], 0o600))
		both(fmt.Sprintf("cut to %d of %d bytes", n, size), "delta", x.old, bad)
	}
	for i := range 16 {
		at := random.Int64N(size)
		if i%2 == 0 {
			at = random.Int64N(index)
		}
		flipped := bytes.Clone(data)
		flipped[at] ^= 1 << random.IntN(8)
		x.must(os.WriteFile(bad, flipped, 0o600))
		both(fmt.Sprintf("bit flipped at %d of %d", at, size), "", x.old, bad)
	}
	x.must(os.Remove(bad))
	if text, err := os.ReadFile(kept); err != nil || string(text) != "it was here before" {
		t.Errorf("the file that was there before holds %d bytes now (%v)", len(text), err)
	}
	if after := x.files(x.dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the directory holds %q, before it was %q", after, before)
	}
}

// TestDeltaToolFullDisk: a disk that is too small is named, and left as it was.
func TestDeltaToolFullDisk(t *testing.T) {
	t.Parallel()
	x := newTool(t, school.Synthetic{Seed: 13, Bytes: megabyte, Text: true, Fresh: megabyte})
	x.makeDelta()
	disk := x.path("disk")
	x.must(os.Mkdir(disk, 0o700))
	x.must(unix.Mount("tmpfs", disk, "tmpfs", 0, "size=512k,mode=0700"))
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, args := range [][]string{{"make", x.old, x.next}, {"apply", x.old, x.delta}} {
		x.refused("full disk", 1, "no space left", append(args, "-o", filepath.Join(disk, "out"))...)
		if left := x.files(disk); len(left) != 0 {
			t.Errorf("%s left %q on the full disk", args[0], left)
		}
	}
}

// TestDeltaToolKilled kills the tool at random points. Under the name that was asked for there is nothing then, or all of it.
func TestDeltaToolKilled(t *testing.T) {
	t.Parallel()
	x := newTool(t, school.Synthetic{Seed: 14, Bytes: 300 << 10, Text: true, Fresh: 60 << 10})
	x.makeDelta()
	random := points(t, 21)
	for _, c := range []struct {
		runs int
		want string // file that must come out
		args []string
	}{{20, x.delta, []string{"make", x.old, x.next}}, {20, x.next, []string{"apply", x.old, x.delta}}} {
		t.Run(c.args[0], func(t *testing.T) {
			x := x.in(t)
			dir := x.path(c.args[0])
			x.must(os.Mkdir(dir, 0o700))
			out := filepath.Join(dir, "out")
			args := append(c.args, "-o", out)
			began := time.Now()
			x.want(args...)
			usual := time.Since(began)
			ended := 0
			for range c.runs {
				if x.killed(time.Duration(random.Int64N(int64(usual)*5/4)), args...) {
					ended++
				}
				if _, err := os.Stat(out); !errors.Is(err, fs.ErrNotExist) && !x.same(out, c.want) {
					t.Errorf("a killed %s left a file that is not whole", c.args[0])
				}
				x.want(args...) // whatever the kill left is no obstacle
				if !x.same(out, c.want) {
					t.Errorf("%s after a kill does not make what it should", c.args[0])
				}
				x.must(os.Remove(out))
			}
			t.Logf("%d kills of %s within %v; %d of them came too late", c.runs, c.args[0], usual*5/4, ended)
			if ended == c.runs {
				t.Error("no kill came in time")
			}
		})
	}
}

// killed starts `ltspctl delta` and kills it after a while. It tells whether it had ended before.
func (x *tool) killed(after time.Duration, args ...string) (ended bool) {
	x.t.Helper()
	cmd := exec.Command(filepath.Join(os.Getenv("LTSP_BIN"), "ltspctl"), append([]string{"delta"}, args...)...)
	x.must(cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		x.must(err)
		return true
	case <-time.After(after):
		x.must(cmd.Process.Kill())
		<-done
		return false
	}
}
