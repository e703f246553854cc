package imagediff

import (
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The order is that of dpkg --compare-versions.
func TestCompareVersions(t *testing.T) {
	ascending := []string{
		"0~~", "0~", "0", "0.1-1", "1.0~rc1", "1.0", "1.0-1", "1.0-1+deb12u1", "1.0-1+deb12u2", "1.0-1+deb12u10", "1.0a", "1.0.1", "1.9", "1.10", "1.10+b1",
		"2.0-0ubuntu1", "1:0.1",
	}
	for i := range ascending {
		for j := range ascending {
			if got, want := compareVersions(ascending[i], ascending[j]), sign(i-j); got != want {
				t.Errorf("%s against %s: %d, want %d", ascending[i], ascending[j], got, want)
			}
		}
	}
	if compareVersions("1.00-1", "1.0-01") != 0 {
		t.Error("leading zeros count")
	}
}

func TestParseDpkg(t *testing.T) {
	const status = `Package: perl-base
Status: install ok installed
Architecture: amd64
Version: 5.36.0-7+deb12u3
Description: minimal Perl system
 Package: not a field
 .

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: held
Status: hold ok installed
Architecture: all
Version: 2:1-1
`
	want := []pkg{{name: "perl-base", arch: "amd64", version: "5.36.0-7+deb12u3"}, {name: "held", arch: "all", version: "2:1-1"}}
	if diff := cmp.Diff(want, parseDpkg([]byte(status)), cmp.AllowUnexported(pkg{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// testdata/rpmdb.sqlite was written by sqlite itself: 30 packages, some with records of several pages, and a key.
func TestRPMPackages(t *testing.T) {
	db, err := os.ReadFile("testdata/rpmdb.sqlite")
	if err != nil {
		t.Fatal(err)
	}
	list, err := rpmPackages(db)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 30 {
		t.Fatalf("%d packages", len(list))
	}
	for i, p := range list {
		version, files := fmt.Sprintf("1.%d-2.fc40", i), 5
		if i == 4 {
			version = "3:" + version
		}
		if i%7 == 0 {
			files = 200
		}
		if p.name != fmt.Sprintf("pkg%d", i) || p.version != version || p.arch != "x86_64" || len(p.files) != files {
			t.Errorf("package %d: %s %s %s with %d files", i, p.name, p.version, p.arch, len(p.files))
		}
		if want := fmt.Sprintf("usr/share/p%d/file%d", i, files-1); p.files[files-1] != want {
			t.Errorf("file %s, want %s", p.files[files-1], want)
		}
	}
	for _, cut := range []int{0, 50, 100, 1024, 5000, len(db) / 2} {
		if _, err := rpmPackages(db[:cut]); err == nil {
			t.Errorf("%d of %d bytes were read as a whole database", cut, len(db))
		}
	}
}

func FuzzRPMPackages(f *testing.F) {
	db, err := os.ReadFile("testdata/rpmdb.sqlite")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(db)
	f.Add(db[:2048])
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := rpmPackages(data)
		for _, p := range list {
			if p.name == "" {
				t.Errorf("a package without a name (%v)", err)
			}
		}
	})
}
