package initrd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// maxTable bounds the length of a depmod table; modules.alias, the longest, has 1 MiB.
const maxTable = 64 << 20

// module is one file below the module directory.
type module struct {
	name string
	file string   // path below the module directory, as in modules.dep
	deps []string // names
}

// plain is the file's path without the compression's suffix.
func (m *module) plain() string {
	stem, _, _ := strings.Cut(path.Base(m.file), ".ko")
	return path.Join(path.Dir(m.file), stem+".ko")
}

// modules are the tables that depmod(8) wrote for one kernel.
type modules struct {
	image   fs.FS
	dir     string // in the image
	byName  map[string]*module
	builtin map[string]bool
	raw     map[string][]byte // tables by file name
	soft    map[string][]string
}

// readModules reads the tables for a kernel release.
func readModules(image fs.FS, release string) (*modules, error) {
	if release != path.Base(release) || release == "." || release == ".." {
		return nil, fmt.Errorf("%w: release %q", ErrNoModules, release)
	}
	m := &modules{image: image, byName: map[string]*module{}, builtin: map[string]bool{}, raw: map[string][]byte{}, soft: map[string][]string{}}
	for _, dir := range []string{"lib/modules/", "usr/lib/modules/"} {
		m.dir = dir + release
		dep, err := readLimited(image, m.dir+"/modules.dep", maxTable)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		m.parseDep(dep)
		return m, m.readOptional()
	}
	return nil, fmt.Errorf("%w: there is no lib/modules/%s/modules.dep; run depmod in the source of the image", ErrNoModules, release)
}

// readOptional reads the tables that may be missing.
func (m *modules) readOptional() error {
	for _, name := range []string{"modules.alias", "modules.softdep", "modules.weakdep", "modules.builtin"} {
		data, err := readLimited(m.image, m.dir+"/"+name, maxTable)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		m.raw[name] = data
	}
	for line := range bytes.Lines(m.raw["modules.builtin"]) {
		if name := nameOf(strings.TrimSpace(string(line))); name != "" {
			m.builtin[name] = true
		}
	}
	m.parseSoft()
	return nil
}

// nameOf gives the module name of a path; empty if it is no module.
func nameOf(file string) string {
	stem, _, ok := strings.Cut(path.Base(file), ".ko")
	if !ok {
		return ""
	}
	return normal(stem)
}

// parseDep reads lines of the form "path: path path ...". Old versions of depmod wrote absolute paths.
func (m *modules) parseDep(data []byte) {
	relative := func(file string) string {
		return path.Clean(strings.TrimPrefix(strings.TrimPrefix(file, "/"), strings.TrimPrefix(m.dir, "usr/")+"/"))
	}
	for line := range bytes.Lines(data) {
		file, deps, ok := strings.Cut(strings.TrimSpace(string(line)), ":")
		file = relative(file)
		name := nameOf(file)
		if !ok || name == "" || strings.HasPrefix(file, "../") || path.IsAbs(file) {
			continue
		}
		mod := &module{name: name, file: file}
		for dep := range strings.FieldsSeq(deps) {
			if dep := nameOf(dep); dep != "" {
				mod.deps = append(mod.deps, dep)
			}
		}
		m.byName[name] = mod
	}
}

// parseSoft reads "softdep NAME pre: A B post: C" and "weakdep NAME A B". What stands before the first colon is ignored, as kmod does.
func (m *modules) parseSoft() {
	for _, table := range []string{"modules.softdep", "modules.weakdep"} {
		for line := range bytes.Lines(m.raw[table]) {
			words := strings.Fields(string(line))
			if len(words) < 3 {
				continue
			}
			counts := words[0] == "weakdep"
			if !counts && words[0] != "softdep" {
				continue
			}
			for _, word := range words[2:] {
				if word == "pre:" || word == "post:" {
					counts = true
				} else if counts {
					m.soft[normal(words[1])] = append(m.soft[normal(words[1])], word)
				}
			}
		}
	}
}

// resolve gives the modules that a name of a soft dependency stands for: a module, or all modules with such an alias.
func (m *modules) resolve(name string) []string {
	if m.byName[normal(name)] != nil {
		return []string{normal(name)}
	}
	if m.builtin[normal(name)] {
		return nil
	}
	var found []string
	for line := range bytes.Lines(m.raw["modules.alias"]) {
		words := strings.Fields(string(line))
		if len(words) != 3 || words[0] != "alias" {
			continue
		}
		if ok, err := path.Match(words[1], name); err == nil && ok && m.byName[normal(words[2])] != nil {
			found = append(found, normal(words[2]))
		}
	}
	return found
}

// choose gives the names of the set's modules with everything they depend on, sorted.
func (m *modules) choose(set Set, extra []string) ([]string, error) {
	chosen := map[string]bool{}
	for _, name := range required {
		if m.byName[name] == nil && !m.builtin[name] {
			return nil, fmt.Errorf("%w: %s, without which no client boots; use another kernel", ErrMissingModule, name)
		}
	}
	for _, name := range extra {
		if m.byName[normal(name)] == nil && !m.builtin[normal(name)] {
			return nil, fmt.Errorf("%w: %s", ErrMissingModule, name)
		}
	}
	for name, mod := range m.byName {
		if inSet(set, mod) || slices.ContainsFunc(extra, func(e string) bool { return normal(e) == name }) {
			m.close(name, chosen)
		}
	}
	return slices.Sorted(maps.Keys(chosen)), nil
}

// close adds a module and what it depends on, hard or soft.
func (m *modules) close(name string, chosen map[string]bool) {
	todo := []string{name}
	for len(todo) > 0 {
		name, todo = todo[len(todo)-1], todo[:len(todo)-1]
		mod := m.byName[name]
		if mod == nil || chosen[name] {
			continue
		}
		chosen[name] = true
		todo = append(todo, mod.deps...)
		for _, soft := range m.soft[name] {
			todo = append(todo, m.resolve(soft)...)
		}
	}
}

// read gives a module's file, expanded.
func (m *modules) read(mod *module) ([]byte, error) {
	data, err := readExpanded(m.image, m.dir+"/"+mod.file)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", mod.name, err)
	}
	return data, nil
}

// tables gives the depmod tables for the chosen modules.
func (m *modules) tables(chosen []string) map[string][]byte {
	in := map[string]bool{}
	var dep bytes.Buffer
	for _, name := range chosen {
		in[name] = true
	}
	for _, name := range chosen {
		mod := m.byName[name]
		dep.WriteString(mod.plain() + ":")
		for _, d := range mod.deps {
			if in[d] {
				dep.WriteString(" " + m.byName[d].plain())
			}
		}
		dep.WriteString("\n")
	}
	out := map[string][]byte{"modules.dep": dep.Bytes(), "modules.builtin": m.raw["modules.builtin"]}
	for table, column := range map[string]int{"modules.alias": 2, "modules.softdep": 1, "modules.weakdep": 1} {
		if data, ok := m.raw[table]; ok {
			out[table] = filter(data, column, in)
		}
	}
	return out
}

// filter keeps the lines whose word in the column is a chosen module.
func filter(data []byte, column int, in map[string]bool) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(data) {
		words := strings.Fields(string(line))
		if len(words) > column && words[0] != "#" && in[normal(words[column])] {
			out.Write(line)
		}
	}
	return out.Bytes()
}
