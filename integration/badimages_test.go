//go:build component

package integration

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
)

// TestBadImages: each is refused with the reason before a byte of it reaches the controller.
func TestBadImages(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "fabad")
	good := filepath.Join(f.Dir, "good.squashfs")
	f.must(f.MakeImage(f.ctx(), good, school.Synthetic{Seed: 1, Bytes: 6 * megabyte, Checked: true}))
	data, err := os.ReadFile(good)
	f.must(err)
	noKernel := filepath.Join(f.Dir, "nokernel.squashfs")
	f.must(f.MakeImage(f.ctx(), noKernel, school.Synthetic{Seed: 2, Bytes: 1 << 10, NoKernel: true}))
	agent := f.write("agent.txt", []byte("no program"))

	type attempt struct {
		name, file, want string
		flags            []string
	}
	attempts := []attempt{
		{name: "truncated", file: f.write("half", data[:len(data)/2]), want: "copied to its end"},
		{name: "last block missing", file: f.write("almost", data[:len(data)-8192]), want: "copied to its end"},
		{name: "only a head", file: f.write("head", data[:96]), want: "copied to its end"},
		{name: "empty", file: f.write("empty", nil), want: "squashfs"},
		{name: "text", file: f.write("text", []byte(strings.Repeat("This is no image.\n", 1000))), want: "not a squashfs"},
		{name: "no kernel", file: noKernel, want: "no kernel in the image"},
		{name: "wrong architecture", file: good, want: "wrong architecture", flags: []string{"--arch", "arm64"}},
		{name: "agent is no program", file: good, want: "agent", flags: []string{"--agent", agent}},
	}
	random := points(t, 4)
	tables := int64(binary.LittleEndian.Uint64(data[64:])) // inode_table_start: what lies before it has checksums
	for i := range 8 {
		bad := append([]byte(nil), data...)
		at := 96 + random.Int64N(tables-96)
		bad[at] ^= 1 << random.IntN(8)
		attempts = append(attempts, attempt{name: fmt.Sprintf("bit flipped at %d of %d", at, len(data)), file: f.write(fmt.Sprintf("flip%d", i), bad), want: "damaged"})
	}
	chunks, audit := len(f.chunkPaths()), f.auditLength()
	for _, a := range attempts {
		t.Run(a.name, func(t *testing.T) {
			_, err := f.PublishSynthetic(f.in(t).ctx(), school.Publishing{File: a.file, Deep: true, Flags: a.flags})
			if code := school.ExitCode(err); code != 7 || !strings.Contains(err.Error(), a.want) {
				t.Errorf("exit status %d: %v, want 7 and %q", code, err, a.want)
			}
		})
	}
	if n := len(f.chunkPaths()); n != chunks {
		t.Errorf("%d chunks of refused images reached the controller", n-chunks)
	}
	if n := f.auditLength(); n != audit || f.showImage(school.ImageName) != nil {
		t.Errorf("refused images changed something: %d audit entries more", n-audit)
	}
	if p := f.publish(school.Publishing{File: good, Deep: true}); p.Version.Number != 1 {
		t.Errorf("the good image became %+v", p)
	}
}

// write makes a file for ltspctl to refuse.
func (f *fleet) write(name string, data []byte) string {
	f.t.Helper()
	path := filepath.Join(f.Dir, name)
	f.must(os.WriteFile(path, data, 0o644))
	return path
}

func (f *fleet) auditLength() int {
	f.t.Helper()
	var entries []auditEntry
	f.must(f.CtlJSON(f.ctx(), &entries, "audit", "list", "--limit", "1000"))
	return len(entries)
}
