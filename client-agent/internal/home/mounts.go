package home

import (
	"path"
	"slices"
	"strings"
)

// mount is a line of mountinfo (proc(5)).
type mount struct {
	point, kind string
}

// parseMounts reads /proc/PID/mountinfo. The last mount at a point is the one that is seen.
func parseMounts(text []byte) []mount {
	var out []mount
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) == 0 {
			continue
		}
		out = append(out, mount{point: unescape(fields[4]), kind: kind[0]})
	}
	return out
}

// unescape undoes the octal escapes of blanks and the like.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// at returns the mount that is seen at a point.
func at(mounts []mount, point string) (mount, bool) {
	for _, m := range slices.Backward(mounts) {
		if m.point == point {
			return m, true
		}
	}
	return mount{}, false
}

// over returns the mount that a path lies on: its own, or the nearest above it.
func over(mounts []mount, name string) mount {
	for dir := path.Clean(name); dir != "/" && dir != "."; dir = path.Dir(dir) {
		if m, ok := at(mounts, dir); ok {
			return m
		}
	}
	return mount{point: "/"}
}

// sshfsKind is the type of an sshfs mount.
const sshfsKind = "fuse.sshfs"

// brought tells whether something has brought a home: it, or a directory above it, is mounted (by NFS from the fstab, from a local disk, by sshfs), so that
// sshfs is not needed. The root file system and its writable layer bring nobody's home.
func brought(mounts []mount, dir string) bool { return over(mounts, dir).point != "/" }

// overSSHFS tells whether an sshfs lies right at a home.
func overSSHFS(mounts []mount, dir string) bool {
	m, ok := at(mounts, dir)
	return ok && m.kind == sshfsKind
}
