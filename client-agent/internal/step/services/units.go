package services

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

// manager is one kind of service manager with the directories of its units, the most important first.
type manager struct {
	name string
	etc  string
	dirs []string
}

var (
	system = manager{"system", "/etc/systemd/system", []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}}
	user   = manager{"user", "/etc/systemd/user", []string{"/etc/systemd/user", "/run/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user", "/lib/systemd/user"}}
)

// link is one that enables something.
type link struct{ path, target string }

// table is what the directory of enabled units holds.
type table struct{ links []link }

// load lists the links in the directory and in its .wants, .requires and .upholds.
func (m manager) load(root rootdir.Root) table {
	var t table
	t.add(root, m.etc, true)
	return t
}

func (t *table) add(root rootdir.Root, dir string, deeper bool) {
	entries, err := root.ReadDir(dir)
	if err != nil {
		return // missing: nothing is enabled
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name())
		if target := root.Readlink(p); target != "" {
			t.links = append(t.links, link{p, target})
			continue
		}
		if e.IsDir() && deeper {
			t.add(root, p, false)
		}
	}
}

// find returns the unit that a name means, and whether the root has it: a unit, an alias of one, or a script of System V's init.
func (t table) find(root rootdir.Root, m manager, name string) (unit string, known bool) {
	unit = withSuffix(name)
	if m.native(root, unit) {
		return unit, true
	}
	return unit, m.name == system.name && root.IsFile("/etc/init.d/"+strings.TrimSuffix(name, ".service"))
}

// disable removes the links that start the units, with those of the units that they name in Also= and of their aliases. It returns the units whose links it
// removed.
func (m manager) disable(c *step.Context, t table, units []string) (gone []string, err error) {
	marked := map[string]bool{}
	var errs []error
	for _, unit := range units {
		m.mark(c.Root, unit, marked)
		if !m.native(c.Root, unit) {
			errs = append(errs, disableScript(c.Root, strings.TrimSuffix(unit, ".service")))
		}
	}
	// A link by another name of a unit that is marked marks that name.
	for again := true; again; {
		again = false
		for _, l := range t.links {
			name, target := path.Base(l.path), path.Base(l.target)
			if l.target != "/dev/null" && marked[target] && !marked[name] && path.Dir(l.path) == m.etc {
				marked[name], again = true, true
			}
		}
	}
	for _, l := range t.links {
		name, target := path.Base(l.path), path.Base(l.target)
		if l.target == "/dev/null" || !marked[name] && !marked[target] {
			continue
		}
		if _, err := c.Hide(l.path); err != nil {
			errs = append(errs, err)
			continue
		}
		if note := "links " + m.name + " " + target; !slices.Contains(c.Memory.Notes[note], l.path) {
			c.Memory.Notes[note] = append(c.Memory.Notes[note], l.path)
		}
		if !slices.Contains(gone, target) {
			gone = append(gone, target)
		}
	}
	return gone, errors.Join(errs...)
}

// maxAlso bounds how many units one can bring with it.
const maxAlso = 64

// mark marks a unit, its aliases and, with theirs, the units of Also=.
func (m manager) mark(root rootdir.Root, unit string, marked map[string]bool) {
	if marked[unit] || len(marked) > maxAlso*maxAlso {
		return
	}
	marked[unit] = true
	if target := m.target(root, unit); target != "" {
		m.mark(root, target, marked)
	}
	install := m.install(root, unit)
	for _, alias := range install["Alias"] {
		marked[alias] = true
	}
	for i, also := range install["Also"] {
		if i < maxAlso {
			m.mark(root, also, marked)
		}
	}
}

// files are the places where a unit's file may be, that of its template too.
func (m manager) files(unit string) []string {
	names := []string{unit}
	if before, after, ok := strings.Cut(unit, "@"); ok {
		names = append(names, before+"@"+path.Ext(after))
	}
	var list []string
	for _, name := range names {
		for _, dir := range m.dirs {
			list = append(list, dir+"/"+name)
		}
	}
	return list
}

// native tells whether the unit has a file of its own, as against a script in /etc/init.d.
func (m manager) native(root rootdir.Root, unit string) bool {
	return slices.ContainsFunc(m.files(unit), root.Exists)
}

// target is the unit that a name is an alias of, "" if it is none.
func (m manager) target(root rootdir.Root, unit string) string {
	for _, dir := range m.dirs {
		target := root.Readlink(dir + "/" + unit)
		if name := path.Base(target); target != "" && target != "/dev/null" && name != unit {
			return name
		}
	}
	return ""
}

// install reads the [Install] section of a unit.
func (m manager) install(root rootdir.Root, unit string) map[string][]string {
	for _, p := range m.files(unit) {
		text, err := root.ReadFile(p)
		if err == nil {
			return parseInstall(string(text))
		}
	}
	return nil
}

func parseInstall(text string) map[string][]string {
	found := map[string][]string{}
	in := false
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			in = line == "[Install]"
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !in || !ok || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		key = strings.TrimSpace(key)
		for name := range strings.FieldsSeq(value) {
			if isUnitName(name) {
				found[key] = append(found[key], name)
			}
		}
	}
	return found
}

// disableScript turns the start links of a System V script into stop links, as update-rc.d does.
func disableScript(root rootdir.Root, name string) error {
	var errs []error
	for _, p := range root.Glob("/etc/rc[0-6S].d/S[0-9][0-9]" + name) {
		dir, base := path.Split(p)
		target := root.Readlink(p)
		if target == "" {
			continue
		}
		number := 100 - int(base[1]-'0')*10 - int(base[2]-'0')
		stop := dir + fmt.Sprintf("K%02d%s", min(number, 99), name)
		errs = append(errs, root.Symlink(target, stop), root.Remove(p))
	}
	return errors.Join(errs...)
}

// enableAgain brings back the links of a unit that disable removed.
func (m manager) enableAgain(c *step.Context, unit string) error {
	marked := map[string]bool{}
	m.mark(c.Root, unit, marked)
	var errs []error
	for name := range marked {
		note := "links " + m.name + " " + name
		for _, p := range c.Memory.Notes[note] {
			errs = append(errs, c.Restore(p))
		}
		delete(c.Memory.Notes, note)
	}
	return errors.Join(errs...)
}
