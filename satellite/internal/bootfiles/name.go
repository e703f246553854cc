package bootfiles

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/bootmenu"
)

// Bounds of a name.
const (
	maxName    = 512
	maxSegment = 128
)

// kind is what a name stands for.
type kind string

const (
	kindScript kind = "script"
	kindConfig kind = "config"
	kindKernel kind = "kernel"
	kindInitrd kind = "initrd"
	kindLoader kind = "loader"
	kindStatus kind = "status"
	kindNone   kind = "none"
)

func kinds() []kind {
	return []kind{kindScript, kindConfig, kindKernel, kindInitrd, kindLoader, kindStatus, kindNone}
}

// target is a parsed name.
type target struct {
	kind     kind
	id       manifest.ID // of the version, or zero
	image    string      // whose current version is meant, or empty
	artifact string      // kernel, initrd or loader file
	mac      string      // as the path gives it, or empty
	again    bool
}

// parseName reads a name as clients send it. The error wraps fs.ErrNotExist: for a client all bad names are just not there.
func parseName(name string) (target, error) {
	seg, err := split(name)
	if err != nil {
		return target{}, err
	}
	switch {
	case len(seg) == 1 && seg[0] == "boot.ipxe", len(seg) == 2 && seg[0] == "ltsp" && seg[1] == "ltsp.ipxe":
		return target{kind: kindScript}, nil
	case len(seg) == 1:
		return target{kind: kindLoader, artifact: seg[0]}, nil
	case seg[0] == "boot":
		return parseBoot(seg[1:])
	case seg[0] == "ltsp":
		return parseLTSP(seg[1:])
	}
	return target{}, notThere("name")
}

// parseBoot reads what follows boot/.
func parseBoot(seg []string) (target, error) {
	switch {
	case len(seg) == 1 && seg[0] == "client.cpio":
		return target{kind: kindConfig}, nil
	case len(seg) == 2 && seg[0] == "loader":
		return target{kind: kindLoader, artifact: seg[1]}, nil
	case len(seg) == 2 && seg[0] == "client":
		mac, ok := strings.CutSuffix(seg[1], bootmenu.CPIOSuffix)
		if !ok {
			return target{}, notThere("name")
		}
		return withMAC(target{kind: kindConfig}, mac)
	case len(seg) == 2 && seg[0] == "script":
		return withMAC(target{kind: kindScript}, seg[1])
	case len(seg) == 3 && seg[0] == "script" && seg[2] == "again":
		return withMAC(target{kind: kindScript, again: true}, seg[1])
	case len(seg) == 3 && seg[0] == "v":
		id, err := manifest.ParseID(seg[1])
		if err != nil {
			return target{}, notThere("version ID")
		}
		return artifactTarget(target{id: id}, seg[2])
	}
	return target{}, notThere("name")
}

// parseLTSP reads what follows ltsp/.
func parseLTSP(seg []string) (target, error) {
	if len(seg) == 1 {
		return target{kind: kindLoader, artifact: seg[0]}, nil
	}
	if len(seg) != 2 || manifest.CheckName(seg[0]) != nil {
		return target{}, notThere("name")
	}
	switch seg[1] {
	case "vmlinuz":
		return artifactTarget(target{image: seg[0]}, manifest.Kernel)
	case "initrd.img":
		return artifactTarget(target{image: seg[0]}, manifest.InitrdFull)
	}
	return target{}, notThere("name")
}

func artifactTarget(t target, artifact string) (target, error) {
	switch artifact {
	case manifest.Kernel:
		t.kind = kindKernel
	case manifest.InitrdFull, manifest.InitrdSchool:
		t.kind = kindInitrd
	default:
		return target{}, notThere("artifact")
	}
	t.artifact = artifact
	return t, nil
}

func withMAC(t target, mac string) (target, error) {
	var err error
	if t.mac, err = bootmenu.ParseMAC(mac); err != nil {
		return target{}, notThere("MAC")
	}
	return t, nil
}

// split cuts a name at its slashes. Backslashes count as such: some firmware writes them.
func split(name string) ([]string, error) {
	if len(name) > maxName {
		return nil, notThere("long name")
	}
	var seg []string
	for s := range strings.FieldsFuncSeq(name, func(r rune) bool { return r == '/' || r == '\\' }) {
		if s == "." || s == ".." || len(s) > maxSegment || strings.ContainsFunc(s, func(r rune) bool { return !nameRune(r) }) {
			return nil, notThere("name")
		}
		seg = append(seg, s)
	}
	if len(seg) == 0 {
		return nil, notThere("empty name")
	}
	return seg, nil
}

func nameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-+:", r)
}

func notThere(what string) error { return fmt.Errorf("%s: %w", what, fs.ErrNotExist) }
