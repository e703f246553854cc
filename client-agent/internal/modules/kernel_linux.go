package modules

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Inserter returns an Insert function for Config that loads files below dir with finit_module(2). Each module gets the parameters from extra
// in front of those that it is called with.
func Inserter(dir string, extra map[string]string) func(path, params string) error {
	return func(path, params string) error {
		f, err := os.Open(filepath.Join(dir, path))
		if err != nil {
			return err
		}
		defer f.Close()
		params = strings.TrimSpace(extra[moduleName(path)] + " " + params)
		err = unix.FinitModule(int(f.Fd()), params, 0)
		switch {
		case errors.Is(err, unix.EEXIST):
			return nil
		case errors.Is(err, unix.EKEYREJECTED):
			return fmt.Errorf("%w (Secure Boot is on: the module must keep the signature that the distribution gave it)", err)
		}
		return err
	}
}

// skippedBuses have devices without a driver in an initrd, and many of them. The modalias of "cpu" alone has a thousand words, for accelerated ciphers
// and power management that the image's own udev will load.
var skippedBuses = map[string]bool{
	"clockevents": true, "clocksource": true, "container": true, "cpu": true, "edac": true, "event_source": true, "machinecheck": true,
	"memory": true, "memory_tiering": true, "node": true, "workqueue": true,
}

// Scanner finds devices in sysfs. It is not safe for concurrent use.
type Scanner struct {
	sys  string
	seen map[string]bool
}

// NewScanner returns a Scanner for sysfs at the given path.
func NewScanner(sys string) *Scanner { return &Scanner{sys: sys, seen: map[string]bool{}} }

// New returns the modaliases of the devices that were not there when New was called before.
func (s *Scanner) New() []string {
	var list []string
	for _, bus := range names(filepath.Join(s.sys, "bus")) {
		if skippedBuses[bus] {
			continue
		}
		devices := filepath.Join(s.sys, "bus", bus, "devices")
		for _, name := range names(devices) {
			device := devices + "/" + name
			if s.seen[device] {
				continue
			}
			s.seen[device] = true
			text, err := os.ReadFile(device + "/modalias")
			if err != nil {
				continue // it has none, or has gone
			}
			if alias := strings.TrimSpace(string(text)); alias != "" {
				list = append(list, alias)
			}
		}
	}
	return list
}

// names lists a directory; one that is not there is empty.
func names(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	list, err := f.Readdirnames(-1)
	if err != nil {
		return nil
	}
	slices.Sort(list)
	return list
}
