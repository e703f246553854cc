// Package bottom is the step of the applet "initrd-bottom": what is done to the mounted root before anything in it runs. The image itself, its overlay and the
// policy's files are the initrd's.
package bottom

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

// Step returns the step.
func Step() step.Step {
	return step.Step{Name: "55-initrd-bottom", Main: "initrd_bottom_main", Functions: []step.Function{
		{Name: "set_readahead", Needs: []string{"READ_AHEAD_KB"}, Do: readAhead},
		{Name: "blacklist_modules", Needs: []string{"BLACKLIST_MODULES"}, Do: blacklist},
	}}
}

const (
	defaultReadAheadKB = 128
	maxReadAheadKB     = 1 << 20
)

// readAhead sets how much is read ahead of what a client asks for, on the devices that the image comes from.
func readAhead(c *step.Context) error {
	kb := defaultReadAheadKB
	if text := c.Values["READ_AHEAD_KB"]; text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > maxReadAheadKB {
			c.Remark("READ_AHEAD_KB %q is no number of KiB, %d is taken", text, defaultReadAheadKB)
			n = defaultReadAheadKB
		}
		kb = n
	}
	sys := c.Facts.Sys
	if sys == "" {
		sys = "/sys"
	}
	var errs []error
	for _, name := range imageDevices(sys) {
		err := os.WriteFile(filepath.Join(sys, "block", name, "queue/read_ahead_kb"), []byte(strconv.Itoa(kb)), 0)
		if err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// imageDevices are the block devices that an image can come from and that are in use: NBD, loop, and device-mapper on one of these.
func imageDevices(sys string) []string {
	entries, err := os.ReadDir(filepath.Join(sys, "block"))
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		size, err := os.ReadFile(filepath.Join(sys, "block", name, "size"))
		if err != nil || strings.TrimSpace(string(size)) == "0" {
			continue
		}
		if isNetwork(name) || strings.HasPrefix(name, "dm-") && slices.ContainsFunc(slaves(sys, name), isNetwork) {
			names = append(names, name)
		}
	}
	return names
}

func isNetwork(name string) bool {
	return strings.HasPrefix(name, "nbd") || strings.HasPrefix(name, "loop")
}

func slaves(sys, name string) []string {
	entries, err := os.ReadDir(filepath.Join(sys, "block", name, "slaves"))
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

const modprobeConf = "/etc/modprobe.d/ltsp.conf"

// blacklist keeps the driver of the floppy disk away: it waits seconds for drives that are not there. Another list than the default one is the
// administrator's.
func blacklist(c *step.Context) error {
	list, given := c.Values["BLACKLIST_MODULES"]
	if !given {
		list = "floppy"
	}
	var lines strings.Builder
	for name := range strings.FieldsSeq(list) {
		if strings.ContainsAny(name, "#/\\\"'") {
			c.Remark("BLACKLIST_MODULES: %q is no name of a module", name)
			continue
		}
		lines.WriteString("blacklist " + name + "\n")
	}
	if !c.Root.IsDir("/etc/modprobe.d") || lines.Len() == 0 {
		return nil
	}
	return c.Generate(modprobeConf, "# Made by ltsp-agent from BLACKLIST_MODULES.\n"+lines.String())
}
