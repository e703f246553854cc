package school

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
)

// Sent is how many bytes a satellite has sent on its LAN interface.
func (s *School) Sent(satellite string) uint64 {
	var sent uint64
	err := s.satellites[satellite].Do(context.Background(), func() error {
		data, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		sent, err = sentBytes(string(data), "lan")
		return err
	})
	if err != nil {
		s.Log("bytes sent by %s: %v", satellite, err)
	}
	return sent
}

// sentBytes finds an interface's transmitted bytes in the text of /proc/net/dev (proc(5): the ninth number).
func sentBytes(text, iface string) (uint64, error) {
	for line := range strings.Lines(text) {
		name, numbers, ok := strings.Cut(strings.TrimSpace(line), ":")
		if fields := strings.Fields(numbers); ok && name == iface && len(fields) >= 9 {
			return strconv.ParseUint(fields[8], 10, 64)
		}
	}
	return 0, fmt.Errorf("no interface %s", iface)
}

// resident is the resident set of a process in bytes (proc(5): the second number of statm is in pages).
func resident(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0, errors.New("statm is too short")
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	return pages * uint64(os.Getpagesize()), err
}

// PrintFigures prints what the boot of vm cost. before is Sent at its power-on.
func (s *School) PrintFigures(w io.Writer, vm *testvm.VM, before uint64) error {
	fmt.Fprintf(w, "\nfigures\n  client CPU, power-on to now   %.1f s\n", vm.CPU().Seconds())
	fmt.Fprintf(w, "  bytes from the satellite      %d\n", s.Sent("sat1")-before)
	for _, name := range []string{"controller", "sat1"} {
		p := s.Daemon(name)
		rss, err := resident(p.Pid)
		if err != nil {
			return err
		}
		cpu, err := p.CPUTime()
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "  %-12s memory %d, CPU %.1f s\n", name, rss, cpu.Seconds())
	}
	for _, t := range s.took {
		fmt.Fprintf(w, "  %6.1f s wall  %s\n", t.wall.Seconds(), t.step)
	}
	return s.printSizes(w)
}

// printSizes lists the files of the versions on the satellite.
func (s *School) printSizes(w io.Writer) error {
	return filepath.WalkDir(s.path("sat1", "images"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintf(w, "  %-14s %d\n", d.Name(), info.Size())
		}
		return err
	})
}
