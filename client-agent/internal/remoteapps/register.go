package remoteapps

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// Paths relative to the root directory.
const (
	// listPath is what a launcher reads when a user starts it.
	listPath     = "etc/ltsp-remoteapps.json"
	wrappersDir  = "usr/local/bin"
	desktopsDir  = "usr/share/applications"
	agentProgram = "/run/ltsp/agent"
)

// Marks by which our own files are known.
const (
	wrapperMark = "# Made by the LTSP Fleet agent: runs on another host."
	desktopMark = "X-LTSP-RemoteApp=true"
)

// maxLauncher is more than wrappers and menu entries of ours have, in bytes.
const maxLauncher = 16 << 10

// programDirs are where the image may have a program of the same name.
var programDirs = []string{"usr/bin", "bin", "usr/sbin", "usr/games", "usr/local/games"}

// Report is what Register did.
type Report struct {
	Made    []string // names of applications whose launcher is new or has changed
	Removed []string // names of applications whose launcher was taken away
	// Remarks say what was left as it is and why, a line each.
	Remarks []string
}

// Register gives a root directory the launchers of the applications that settings name (a program in /usr/local/bin and an entry in the menu each), and takes
// away those that it made before for others. It does not touch what it has not made: a program or a menu entry of the image by the same name stays, and a
// remark says so. It may be called on the running client.
func Register(root *os.Root, s Settings) (Report, error) {
	apps, remarks := Load(root.FS(), s)
	report := Report{Remarks: remarks}
	for _, app := range apps {
		changed, remarks, err := makeLauncher(root, app)
		report.Remarks = append(report.Remarks, remarks...)
		if err != nil {
			return report, fmt.Errorf("register remote application %s: %w", app.Name, err)
		}
		if changed {
			report.Made = append(report.Made, app.Name)
		}
	}
	if err := writeList(root, apps); err != nil {
		return report, fmt.Errorf("register remote applications: %w", err)
	}
	removed, err := sweep(root, func(name string) bool {
		return slices.ContainsFunc(apps, func(a App) bool { return a.Name == name })
	})
	report.Removed = removed
	if err != nil {
		return report, fmt.Errorf("remove remote applications: %w", err)
	}
	return report, nil
}

// Unregister takes away all launchers.
func Unregister(root *os.Root) (Report, error) {
	removed, err := sweep(root, func(string) bool { return false })
	if err == nil {
		err = writeList(root, nil)
	}
	return Report{Removed: removed}, err
}

// makeLauncher writes wrapper and menu entry of one application.
func makeLauncher(root *os.Root, app App) (changed bool, remarks []string, err error) {
	for _, f := range []struct {
		path, mark, text string
		mode             fs.FileMode
	}{
		{path.Join(wrappersDir, app.Name), wrapperMark, wrapper(app), 0o755},
		{path.Join(desktopsDir, app.Name+".desktop"), desktopMark, desktop(app), 0o644},
	} {
		wrote, err := replace(root, f.path, f.mark, f.text, f.mode)
		if errors.Is(err, errForeign) {
			remarks = append(remarks, fmt.Sprintf("remote application %s: the image's own /%s stays", app.Name, f.path))
			continue
		}
		if err != nil {
			return changed, remarks, err
		}
		changed = changed || wrote
	}
	for _, dir := range programDirs {
		if _, err := root.Lstat(path.Join(dir, app.Name)); err == nil {
			remarks = append(remarks, fmt.Sprintf("remote application %s: the launcher comes before the image's own /%s/%s", app.Name, dir, app.Name))
			break
		}
	}
	return changed, remarks, nil
}

func wrapper(app App) string {
	return "#!/bin/sh\n" + wrapperMark + "\nexec " + agentProgram + " remoteapp '" + app.Name + "' \"$@\"\n"
}

// desktop returns the menu entry (Desktop Entry Specification 1.5).
func desktop(app App) string {
	var out strings.Builder
	out.WriteString("[Desktop Entry]\nType=Application\nVersion=1.0\nName=" + escape(app.Title) + "\n")
	for _, o := range []struct{ key, value string }{{"Comment", app.Comment}, {"Icon", app.Icon}, {"Categories", app.Categories}} {
		if o.value != "" {
			out.WriteString(o.key + "=" + escape(o.value) + "\n")
		}
	}
	out.WriteString("Exec=/" + path.Join(wrappersDir, app.Name) + " %U\nTerminal=false\n" + desktopMark + "\n")
	return out.String()
}

func escape(value string) string { return strings.ReplaceAll(value, `\`, `\\`) }

var errForeign = errors.New("not made by the agent")

// replace writes a file unless it has that content already; one without the mark is somebody else's.
func replace(root *os.Root, name, mark, text string, mode fs.FileMode) (changed bool, err error) {
	switch ours, old, err := inspect(root, name, mark); {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, err
	case err == nil && !ours:
		return false, errForeign
	case err == nil && string(old) == text:
		return false, nil
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return false, err
	}
	temp := path.Join(path.Dir(name), ".ltsp-new")
	if err := root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := root.WriteFile(temp, []byte(text), mode); err != nil {
		return false, err
	}
	if err := root.Chmod(temp, mode); err != nil { // the umask is the caller's
		return false, err
	}
	return true, root.Rename(temp, name)
}

// inspect tells whether a file is one of ours. A link never is, but for LTSP's own, which stand for the same thing.
func inspect(root *os.Root, name, mark string) (ours bool, text []byte, err error) {
	info, err := root.Lstat(name)
	if err != nil {
		return false, nil, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := root.Readlink(name)
		return path.Base(target) == "ltsp-remoteapps", nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxLauncher {
		return false, nil, nil
	}
	text, err = root.ReadFile(name)
	return slices.ContainsFunc(bytes.Split(text, []byte("\n")), func(l []byte) bool { return string(l) == mark }), text, err
}

// sweep removes launchers of ours that keep does not want, and returns their names.
func sweep(root *os.Root, keep func(name string) bool) ([]string, error) {
	var removed []string
	for _, kind := range []struct{ dir, suffix, mark string }{{wrappersDir, "", wrapperMark}, {desktopsDir, ".desktop", desktopMark}} {
		entries, err := fs.ReadDir(root.FS(), kind.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
		for _, e := range entries {
			name, ok := strings.CutSuffix(e.Name(), kind.suffix)
			if !ok || keep(name) {
				continue
			}
			file := path.Join(kind.dir, e.Name())
			if ours, _, err := inspect(root, file, kind.mark); err != nil || !ours {
				continue
			}
			if err := root.Remove(file); err != nil {
				return removed, err
			}
			removed = append(removed, name)
		}
	}
	slices.Sort(removed)
	return slices.Compact(removed), nil
}

// writeList replaces the list that launchers read. Anybody may read it.
func writeList(root *os.Root, apps []App) error {
	text, err := json.MarshalIndent(apps, "", " ")
	if err != nil {
		return err
	}
	if len(apps) == 0 {
		if err := root.Remove(listPath); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	temp := listPath + ".new"
	if err := root.MkdirAll(path.Dir(listPath), 0o755); err != nil {
		return err
	}
	if err := root.WriteFile(temp, append(text, '\n'), 0o644); err != nil {
		return err
	}
	if err := root.Chmod(temp, 0o644); err != nil {
		return err
	}
	return root.Rename(temp, listPath)
}

// Find returns a registered application.
func Find(root fs.FS, name string) (App, error) {
	text, err := fs.ReadFile(root, listPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return App{}, fmt.Errorf("find remote application %s: %w", name, err)
	}
	var apps []App
	if len(text) > 0 {
		if err := json.Unmarshal(text, &apps); err != nil {
			return App{}, fmt.Errorf("find remote application %s: %w", name, err)
		}
	}
	for _, a := range apps {
		if a.Name == name {
			return a, nil
		}
	}
	return App{}, fmt.Errorf("%q is not a remote application of this client", name)
}
