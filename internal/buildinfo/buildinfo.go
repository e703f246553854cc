// Package buildinfo tells which build is running. Every binary may import it.
package buildinfo

import "runtime/debug"

// version is set by the linker: -ldflags "-X github.com/ltsp-fleet/ltsp-fleet/internal/buildinfo.version=v1.2.3".
var version string

// Version returns the release that the linker was told, else the module version or the revision that the Go tool recorded, with "+dirty"
// for a changed checkout, else "unknown". It is one word of at most 128 bytes.
func Version() string {
	if version != "" {
		return clip(version)
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return clip(fromBuildInfo(info))
}

func fromBuildInfo(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	if revision == "" {
		return "unknown"
	}
	return revision + dirty
}

func clip(s string) string { return s[:min(128, len(s))] }
