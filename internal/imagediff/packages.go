package imagediff

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// pkg is an installed package.
type pkg struct {
	name, arch, version string
	files               []string // without a slash in front
}

// key tells packages apart: one name may be installed for several architectures.
func (p pkg) key() string { return p.name + ":" + p.arch }

// owners maps files to the keys of their packages; the new image's word counts more.
func owners(lists ...[]pkg) map[string]string {
	out := map[string]string{}
	for _, list := range lists {
		for _, p := range list {
			for _, f := range p.files {
				out[f] = p.key()
			}
		}
	}
	return out
}

// Places of the package databases: dpkg-query(1), and rpm's with the sqlite backend.
const (
	dpkgStatus = "var/lib/dpkg/status"
	dpkgInfo   = "var/lib/dpkg/info/"
)

var rpmDatabases = []string{"usr/lib/sysimage/rpm/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite"}

// readPackages lists what is installed; nothing if there is no database that can be read.
func readPackages(f *squashfs.FS) ([]pkg, error) {
	status, err := f.ReadFile(dpkgStatus)
	switch {
	case err == nil:
		return dpkgPackages(f, status)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read %s: %w", dpkgStatus, err)
	}
	for _, name := range rpmDatabases {
		data, err := f.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		list, err := rpmPackages(data)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		return list, nil
	}
	return nil, nil
}

func dpkgPackages(f *squashfs.FS, status []byte) ([]pkg, error) {
	list := parseDpkg(status)
	for i := range list {
		p := &list[i]
		for _, name := range []string{p.name + ".list", p.name + ":" + p.arch + ".list"} {
			text, err := f.ReadFile(dpkgInfo + name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", dpkgInfo+name, err)
			}
			for line := range bytes.Lines(text) {
				if path := strings.TrimPrefix(strings.TrimSpace(string(line)), "/"); path != "" && path != "." {
					p.files = append(p.files, path)
				}
			}
			break
		}
	}
	return list, nil
}

// parseDpkg reads the paragraphs of dpkg's status file (deb-control(5)) of the packages that are installed.
func parseDpkg(status []byte) []pkg {
	var list []pkg
	for paragraph := range bytes.SplitSeq(status, []byte("\n\n")) {
		var p pkg
		installed := false
		for line := range bytes.Lines(paragraph) {
			key, value, ok := strings.Cut(strings.TrimRight(string(line), "\n"), ": ")
			if !ok || strings.HasPrefix(key, " ") {
				continue
			}
			switch key {
			case "Package":
				p.name = value
			case "Version":
				p.version = value
			case "Architecture":
				p.arch = value
			case "Status":
				installed = strings.HasSuffix(value, " installed")
			}
		}
		if installed && p.name != "" {
			list = append(list, p)
		}
	}
	return list
}

// compareVersions orders versions as dpkg does (deb-version(7)): epoch, upstream version, revision; digits by value, "~" before everything. RPM
// versions of one package sort the same way but for rare spellings.
func compareVersions(a, b string) int {
	epochA, restA := epoch(a)
	epochB, restB := epoch(b)
	if c := compareParts(epochA, epochB); c != 0 {
		return c
	}
	upA, revA := revision(restA)
	upB, revB := revision(restB)
	if c := compareParts(upA, upB); c != 0 {
		return c
	}
	return compareParts(revA, revB)
}

func epoch(v string) (epoch, rest string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		return e, rest
	}
	return "0", v
}

func revision(v string) (upstream, revision string) {
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return v[:i], v[i+1:]
	}
	return v, "0"
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// weight orders characters within a part that has no digits: "~", the end, letters, all else.
func weight(s string) int {
	switch {
	case s == "" || digit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case s[0] >= 'A' && s[0] <= 'Z' || s[0] >= 'a' && s[0] <= 'z':
		return int(s[0])
	}
	return int(s[0]) + 256
}

func compareParts(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !digit(a[0]) || b != "" && !digit(b[0]) {
			if x, y := weight(a), weight(b); x != y {
				return sign(x - y)
			}
			a, b = a[1:], b[1:]
		}
		numA, numB := number(&a), number(&b)
		if len(numA) != len(numB) {
			return sign(len(numA) - len(numB))
		}
		if c := strings.Compare(numA, numB); c != 0 {
			return c
		}
	}
	return 0
}

// number takes the digits off the front, without leading zeros.
func number(s *string) string {
	n := 0
	for n < len(*s) && digit((*s)[n]) {
		n++
	}
	num := strings.TrimLeft((*s)[:n], "0")
	*s = (*s)[n:]
	return num
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}
