package command

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/sessions"
)

const (
	maxEnviron   = 256 << 10
	maxProcesses = 8192
)

// windowVariables are what is taken from a process of the desktop.
var windowVariables = []string{"DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "LANG"}

// errNoDesktop tells that no process of a user has a display.
var errNoDesktop = errors.New("no program with a window was found")

// FindDesktop finds the desktop of a login by a process of its user that has a display. Proc is /proc. What a user's process says is used with that
// user's rights only.
func FindDesktop(proc string, l sessions.Login) (Desktop, error) {
	names, err := processes(proc)
	if err != nil {
		return Desktop{}, err
	}
	for _, name := range names {
		dir := filepath.Join(proc, name)
		info, err := os.Stat(dir)
		if err != nil {
			continue
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		if !ok || owner.Uid != l.UID {
			continue
		}
		env := windowEnv(filepath.Join(dir, "environ"), l.Display)
		if env == nil {
			continue
		}
		d := Desktop{UID: owner.Uid, GID: owner.Gid, Env: append(env, "PATH="+path, "USER="+l.User, "LOGNAME="+l.User)}
		if d.Groups, err = groups(filepath.Join(dir, "status")); err != nil {
			continue // has just ended
		}
		return d, nil
	}
	return Desktop{}, errNoDesktop
}

// processes are the numbers in /proc.
func processes(proc string) ([]string, error) {
	d, err := os.Open(proc)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxProcesses)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return slices.DeleteFunc(names, func(name string) bool {
		_, err := strconv.ParseUint(name, 10, 31)
		return err != nil
	}), nil
}

// windowEnv returns the variables of a process that has a display, on the given one if that is not empty.
func windowEnv(file, display string) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return nil
	}
	var env []string
	has := false
	for entry := range strings.SplitSeq(string(data), "\x00") {
		name, value, _ := strings.Cut(entry, "=")
		if !slices.Contains(windowVariables, name) || value == "" {
			continue
		}
		if name == "DISPLAY" && display != "" && value != display {
			return nil
		}
		has = has || name == "DISPLAY" || name == "WAYLAND_DISPLAY"
		env = append(env, entry)
	}
	if !has {
		return nil
	}
	return env
}

// groups reads the supplementary groups of a process.
func groups(status string) ([]uint32, error) {
	text, err := os.ReadFile(status)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, "Groups:")
		if !ok {
			continue
		}
		var list []uint32
		for word := range strings.FieldsSeq(rest) {
			n, err := strconv.ParseUint(word, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("group %q: %w", word, err)
			}
			list = append(list, uint32(n))
		}
		return list, nil
	}
	return nil, fmt.Errorf("groups: %w", fs.ErrNotExist)
}
