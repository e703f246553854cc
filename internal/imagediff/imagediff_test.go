//go:build component

package imagediff_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/imagediff"
)

// pack makes a squashfs of files; a name that ends with "@" is a symbolic link.
func pack(t *testing.T, files map[string]string, options ...string) *io.SectionReader {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, "tree", strings.TrimSuffix(name, "@"))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if strings.HasSuffix(name, "@") {
			err = os.Symlink(content, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if files["mode"] == "private" {
		if err := os.Chmod(filepath.Join(dir, "tree", "mode"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "image")
	cmd := exec.CommandContext(t.Context(), "mksquashfs", append([]string{filepath.Join(dir, "tree"), out, "-all-root", "-quiet", "-no-progress"}, options...)...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mksquashfs: %v: %s", err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))
}

const status = `Package: tool
Status: install ok installed
Architecture: amd64
Version: VERSION

`

func TestCompare(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<15) // 512 KiB: whole blocks and, with one byte more, a tail
	older := map[string]string{
		"etc/os-release": "NAME=x\nPRETTY_NAME=\"Old 1\"\n", "same": big + "x", "edited": big + "old", "shorter": big, "gone": "12345", "kind": "file",
		"link@": "same", "moved@": "there", "mode": "private", "usr/bin/tool": "v1",
		"var/lib/dpkg/status": strings.Replace(status, "VERSION", "1.0", 1) + strings.ReplaceAll(status, "tool", "leaves"), "var/lib/dpkg/info/tool.list": "/.\n/usr\n/usr/bin\n/usr/bin/tool\n",
	}
	newer := map[string]string{
		"etc/os-release": "NAME=x\nPRETTY_NAME=\"New 2\"\n", "same": big + "x", "edited": big + "new", "shorter": big[1:], "come": "123", "kind@": "elsewhere",
		"link@": "same", "moved@": "here", "mode": "Private", "usr/bin/tool": "v2",
		"var/lib/dpkg/status": strings.Replace(status, "VERSION", "1.1", 1) + strings.ReplaceAll(status, "tool", "comes"), "var/lib/dpkg/info/tool.list": "/.\n/usr\n/usr/bin\n/usr/bin/tool\n",
	}
	newer["mode"] = "privatE"
	var last int64
	for _, options := range [][]string{{"-comp", "zstd"}, {"-comp", "gzip"}, {"-comp", "xz"}, {"-no-fragments", "-comp", "zstd"}, {"-b", "4096", "-comp", "zstd"}} {
		// The old image with other options than the new one, so that equal content is stored differently.
		for _, oldOptions := range [][]string{options, {"-comp", "gzip", "-b", "64K"}} {
			r, err := imagediff.Compare(t.Context(), pack(t, older, oldOptions...), pack(t, newer, options...), imagediff.Options{Progress: func(done, total int64) {
				if done > total {
					t.Errorf("%d of %d bytes", done, total)
				}
				last = done
			}})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range r.Files {
				got = append(got, string(f.Kind)+" "+f.Path+" "+f.Package)
			}
			want := []string{
				"added /come ", "changed /edited ", "changed /etc/os-release ", "removed /gone ", "changed /kind ", "changed /mode ", "attributes /moved ", "changed /shorter ",
				"changed /usr/bin/tool tool", "changed /var/lib/dpkg/status ",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%v, %v (-want +got):\n%s", oldOptions, options, diff)
			}
			packages := []imagediff.Package{
				{Name: "comes", Arch: "amd64", Kind: imagediff.Added, New: "VERSION"}, {Name: "leaves", Arch: "amd64", Kind: imagediff.Removed, Old: "VERSION"},
				{Name: "tool", Arch: "amd64", Kind: imagediff.Upgraded, Old: "1.0", New: "1.1", Bytes: 2},
			}
			if diff := cmp.Diff(packages, r.Packages); diff != "" {
				t.Errorf("packages (-want +got):\n%s", diff)
			}
			if r.AddedBytes != 3 || r.RemovedBytes != 5 || r.AddedFiles != 1 || r.RemovedFiles != 1 || r.ChangedFiles != 7 || r.AttributeFiles != 1 {
				t.Errorf("counts: %+v", r)
			}
			if r.Old.OS != "Old 1" || r.New.OS != "New 2" || r.New.Packages != 2 || !r.PackageDatabase || last == 0 {
				t.Errorf("sides: %+v, %+v", r.Old, r.New)
			}
		}
	}
}

// Only what changed counts: a file mode does, a time does not.
func TestAttributes(t *testing.T) {
	one := map[string]string{"mode": "private", "file": "x"}
	same := pack(t, one, "-comp", "zstd")
	later := pack(t, one, "-comp", "zstd", "-all-time", "1000000000")
	r, err := imagediff.Compare(t.Context(), same, later, imagediff.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Files) != 0 || r.UnchangedBytes != 8 {
		t.Errorf("times alone: %+v", r)
	}
	if r, err = imagediff.Compare(t.Context(), same, pack(t, one, "-comp", "zstd", "-action", "chmod(644)@name(mode)"), imagediff.Options{}); err != nil {
		t.Fatal(err)
	}
	if len(r.Files) != 1 || r.Files[0].Kind != imagediff.Attributes {
		t.Errorf("another mode: %+v", r.Files)
	}
}

func TestNotAnImage(t *testing.T) {
	good := pack(t, map[string]string{"a": "b"}, "-comp", "zstd")
	bad := io.NewSectionReader(strings.NewReader("no image"), 0, 8)
	if _, err := imagediff.Compare(t.Context(), bad, good, imagediff.Options{}); err == nil || !strings.Contains(err.Error(), "old image") {
		t.Error(err)
	}
	if _, err := imagediff.Compare(t.Context(), good, bad, imagediff.Options{}); err == nil || !strings.Contains(err.Error(), "new image") {
		t.Error(err)
	}
}
