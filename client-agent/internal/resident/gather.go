package resident

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// memory reads /proc/meminfo.
func memory(proc fs.FS) (agentproto.Memory, error) {
	text, err := fs.ReadFile(proc, "meminfo")
	if err != nil {
		return agentproto.Memory{}, fmt.Errorf("read memory: %w", err)
	}
	var m agentproto.Memory
	for line := range strings.Lines(string(text)) {
		switch f := strings.Fields(line); {
		case len(f) < 2:
		case f[0] == "MemTotal:":
			m.TotalBytes = kilobytes(f[1])
		case f[0] == "MemAvailable:":
			m.AvailableBytes = kilobytes(f[1])
		}
	}
	return m, nil
}

func kilobytes(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 53)
	if err != nil {
		return 0
	}
	return n << 10
}

// load reads the first number of /proc/loadavg.
func load(proc fs.FS) (float64, error) {
	text, err := fs.ReadFile(proc, "loadavg")
	if err != nil {
		return 0, fmt.Errorf("read load: %w", err)
	}
	first, _, _ := strings.Cut(string(text), " ")
	n, err := strconv.ParseFloat(first, 64)
	if err != nil || n < 0 || n > 1e6 {
		return 0, fmt.Errorf("read load: %.40q is no load", text)
	}
	return n, nil
}

// fill returns the fill of the file system at path. On an overlay that is its writable layer.
func fill(path string) (agentproto.Fill, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return agentproto.Fill{}, fmt.Errorf("read fill of %s: %w", path, err)
	}
	size := uint64(s.Bsize)
	return agentproto.Fill{SizeBytes: s.Blocks * size, UsedBytes: (s.Blocks - s.Bfree) * size}, nil
}
