package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is USER_HZ, which Linux fixes at 100 for every architecture that Go supports (proc(5), clock ticks).
const ticksPerSecond = 100

// CPUTime returns user plus system time that the process has used so far, in steps of 10 ms while it runs and exactly
// after its end.
func (p *Process) CPUTime() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
	if err == nil {
		var used time.Duration
		if used, err = parseStat(stat); err == nil {
			return used, nil
		}
	}
	select {
	case <-p.done:
		return p.CPU(), nil
	default:
		return 0, fmt.Errorf("cpu time of %s: %w", p.Name, err)
	}
}

// parseStat reads utime and stime, fields 14 and 15 of proc(5). The second field is the program name in brackets and may
// itself hold brackets and blanks.
func parseStat(stat []byte) (time.Duration, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, fmt.Errorf("no program name in %q", stat)
	}
	const utime, stime = 14 - 3, 15 - 3 // the first field after the name is number 3
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) <= stime {
		return 0, fmt.Errorf("only %d fields in %q", len(fields), stat)
	}
	var ticks int64
	for _, field := range []string{fields[utime], fields[stime]} {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("clock ticks: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}
