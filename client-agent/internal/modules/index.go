// Package modules finds and loads kernel modules from the initrd without modprobe: what a device's modalias asks for, in the order that depmod
// wrote down. The index and the order are pure code; only Kernel talks to the kernel.
package modules

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// ErrNotFound tells that a module is neither in the initrd nor built into the kernel.
var ErrNotFound = errors.New("module is not in the initrd")

// Index is what depmod's files say about the modules of one kernel. It does not change after ReadIndex and may be shared.
type Index struct {
	dir     fs.FS
	paths   map[string]string   // name to path below dir
	deps    map[string][]string // name to all modules it needs, in the order of modules.dep: the last is loaded first
	pre     map[string][]string // softdep: load before, if there
	post    map[string][]string // softdep: load behind, if there
	aliases map[string][]alias  // by the pattern's literal beginning, see bucket
	builtin map[string]bool
}

type alias struct{ pattern, module string }

// ReadIndex reads modules.dep, modules.alias and, if they are there, modules.softdep, modules.builtin and modules.builtin.modinfo in dir, which
// is /lib/modules/RELEASE. Lines that it cannot understand are passed over.
func ReadIndex(dir fs.FS) (*Index, error) {
	x := &Index{
		dir: dir, paths: map[string]string{}, deps: map[string][]string{}, pre: map[string][]string{}, post: map[string][]string{},
		aliases: map[string][]alias{}, builtin: map[string]bool{},
	}
	for _, file := range []struct {
		name     string
		line     func(string)
		required bool
	}{
		{"modules.dep", x.addDep, true},
		{"modules.alias", x.addAlias, true},
		{"modules.softdep", x.addSoftdep, false},
		{"modules.builtin", x.addBuiltin, false},
	} {
		err := eachLine(dir, file.name, file.line)
		if errors.Is(err, fs.ErrNotExist) && !file.required {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read index of kernel modules: %w", err)
		}
	}
	return x, nil
}

func eachLine(dir fs.FS, name string, line func(string)) error {
	f, err := dir.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return scanLines(f, name, line)
}

func scanLines(r io.Reader, name string, line func(string)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text := strings.TrimSpace(lines.Text())
		if text != "" && text[0] != '#' {
			line(text)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// addDep reads "kernel/a/b.ko: kernel/c/d.ko kernel/e/f.ko".
func (x *Index) addDep(line string) {
	file, deps, ok := strings.Cut(line, ":")
	if !ok {
		return
	}
	name := moduleName(file)
	x.paths[name] = strings.TrimPrefix(path.Clean(file), "/")
	for dep := range strings.FieldsSeq(deps) {
		x.deps[name] = append(x.deps[name], moduleName(dep))
	}
}

// addAlias reads "alias PATTERN MODULE".
func (x *Index) addAlias(line string) {
	f := strings.Fields(line)
	if len(f) != 3 || f[0] != "alias" {
		return
	}
	pattern := normalize(f[1])
	key := bucket(pattern)
	x.aliases[key] = append(x.aliases[key], alias{pattern, normalize(f[2])})
}

// addSoftdep reads "softdep MODULE pre: A B post: C". What stands before the first keyword is in use in the wild and means nothing.
func (x *Index) addSoftdep(line string) {
	f := strings.Fields(line)
	if len(f) < 3 || f[0] != "softdep" {
		return
	}
	name := normalize(f[1])
	var to map[string][]string
	for _, word := range f[2:] {
		switch {
		case word == "pre:":
			to = x.pre
		case word == "post:":
			to = x.post
		case to != nil:
			to[name] = append(to[name], normalize(word))
		}
	}
}

// addBuiltin reads "kernel/a/b.ko".
func (x *Index) addBuiltin(line string) { x.builtin[moduleName(line)] = true }

// moduleName turns a path such as kernel/drivers/net/a-b.ko.xz into a_b.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(strings.TrimSpace(file)), ".ko")
	return normalize(name)
}

// bucket returns the pattern's text up to and with the first ":" if no wildcard comes before it, else "". Nearly all patterns begin with
// their bus ("pci:", "usb:"), so a device is compared with those of its bus only.
func bucket(pattern string) string {
	i := strings.IndexAny(pattern, `:*?[\`)
	if i < 0 || pattern[i] != ':' {
		return ""
	}
	return pattern[:i+1]
}

// Match returns the names of the modules whose aliases match a device's modalias or a request such as "crypto-sha256", each once, those with
// an alias for its bus first. Modules that the initrd lacks are left out.
func (x *Index) Match(modalias string) []string {
	s := normalize(strings.TrimSpace(modalias))
	var names []string
	seen := map[string]bool{}
	keys := []string{bucket(s), ""}
	if keys[0] == "" {
		keys = keys[1:]
	}
	for _, key := range keys {
		for _, a := range x.aliases[key] {
			if !seen[a.module] && match(a.pattern, s) {
				seen[a.module] = true
				if x.has(a.module) {
					names = append(names, a.module)
				}
			}
		}
	}
	return names
}

// Builtin tells whether the kernel has the module compiled in.
func (x *Index) Builtin(name string) bool { return x.builtin[normalize(name)] }

func (x *Index) has(name string) bool {
	file, ok := x.paths[name]
	if !ok {
		return false
	}
	_, err := fs.Stat(x.dir, file)
	return err == nil
}
