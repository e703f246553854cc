package step

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
)

// Memory remembers what files were before a step changed them, and what steps have made, so that another value can take it back. Files lie in a
// directory of the root that only root can read; the rest is data.
type Memory struct {
	root rootdir.Root
	dir  string
	// Notes are lists by the name of the step that made them.
	Notes map[string][]string
}

// NewMemory returns the memory in a directory of the root, with notes of before; nil means none.
func NewMemory(root rootdir.Root, dir string, notes map[string][]string) *Memory {
	if notes == nil {
		notes = map[string][]string{}
	}
	return &Memory{root: root, dir: dir, Notes: notes}
}

// How an original lies in the directory: its content, its target if it was a link, or an empty file if there was none.
const (
	wasFile   = ".file"
	wasLink   = ".link"
	wasAbsent = ".absent"
)

func (m *Memory) place(p, kind string) string {
	return path.Join(m.dir, "original", url.PathEscape(strings.TrimPrefix(path.Clean("/"+p), "/"))+kind)
}

// kind tells how p was remembered, "" if it was not.
func (m *Memory) kind(p string) string {
	for _, k := range []string{wasFile, wasLink, wasAbsent} {
		if m.root.Exists(m.place(p, k)) {
			return k
		}
	}
	return ""
}

// keep remembers p as it is, unless it has been remembered before.
func (m *Memory) keep(p string) error {
	if m.kind(p) != "" {
		return nil
	}
	if target := m.root.Readlink(p); target != "" {
		return m.store(m.place(p, wasLink), target)
	}
	content, err := m.root.ReadFile(p)
	if errors.Is(err, fs.ErrNotExist) {
		return m.store(m.place(p, wasAbsent), "")
	}
	if err != nil {
		return err
	}
	return m.store(m.place(p, wasFile), string(content))
}

func (m *Memory) store(place, content string) error {
	if err := m.root.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	if err := m.root.MkdirAll(path.Dir(place), 0o700); err != nil {
		return err
	}
	return m.root.WriteFileMode(place, content, 0o600)
}

// original returns the content of p as it was, or as it is if nothing has changed it. The error is fs.ErrNotExist if there was none.
func (m *Memory) original(p string) (string, error) {
	switch m.kind(p) {
	case wasFile:
		content, err := m.root.ReadFile(m.place(p, wasFile))
		return string(content), err
	case wasAbsent:
		return "", fs.ErrNotExist
	}
	content, err := m.root.ReadFile(p)
	return string(content), err
}

// Original is what the file was before any step changed it. What was not there is empty.
func (c *Context) Original(p string) (string, error) {
	content, err := c.Memory.original(p)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return content, err
}

// Generate makes a file wholly.
func (c *Context) Generate(p, content string) error { return c.GenerateMode(p, content, 0o644) }

// GenerateMode is Generate with permissions other than 0644.
func (c *Context) GenerateMode(p, content string, mode fs.FileMode) error {
	if err := c.Memory.keep(p); err != nil {
		return err
	}
	return c.Root.WriteFileMode(p, content, mode)
}

// Edit changes a file from what it was before any step changed it. A file that is not there stays away.
func (c *Context) Edit(p string, change func(string) string) error {
	p = c.Root.Real(p) // what a link leads to is changed, not the link
	old, err := c.Memory.original(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", p, err)
	}
	text := change(old)
	if current, err := c.Root.ReadFile(p); err == nil && string(current) == text {
		return nil
	}
	if err := c.Memory.keep(p); err != nil {
		return err
	}
	return c.Root.EditFile(p, text)
}

// Append writes text behind what the file was before any step changed it; the file may be new.
func (c *Context) Append(p, text string) error {
	p = c.Root.Real(p)
	if !c.Root.Exists(p) {
		old, err := c.Original(p)
		if err != nil {
			return err
		}
		return c.Generate(p, old+text)
	}
	return c.Edit(p, func(old string) string {
		if old != "" && !strings.HasSuffix(old, "\n") {
			old += "\n"
		}
		return old + text
	})
}

// Restore makes a file what it was before a step changed it; one that no step has changed is left alone.
func (c *Context) Restore(p string) error {
	if c.Memory.kind(p) == "" {
		p = c.Root.Real(p)
	}
	switch c.Memory.kind(p) {
	case wasFile:
		content, err := c.Memory.original(p)
		if err != nil {
			return err
		}
		if c.Root.Readlink(p) == "" && c.Root.IsFile(p) {
			return c.Root.EditFile(p, content)
		}
		return c.Root.WriteFile(p, content)
	case wasLink:
		target, err := c.Root.ReadFile(c.Memory.place(p, wasLink))
		if err != nil {
			return err
		}
		return c.Root.Symlink(string(target), p)
	case wasAbsent:
		return c.Root.Remove(p)
	}
	return nil
}

// Link makes a symbolic link in place of what is there.
func (c *Context) Link(target, p string) error {
	if c.Root.Readlink(p) == target {
		return nil
	}
	if err := c.Memory.keep(p); err != nil {
		return err
	}
	return c.Root.Symlink(target, p)
}

// Remark tells the administrator something.
func (c *Context) Remark(format string, args ...any) {
	c.Remarks = append(c.Remarks, fmt.Sprintf(format, args...))
}

// Names returns the names of the variables of a family that have a value, sorted.
func (v Values) Names(prefix string) []string {
	var names []string
	for name, value := range v {
		if value != "" && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// Words splits a value at blanks.
func (v Values) Words(name string) []string { return strings.Fields(v[name]) }

// Match tells whether a need is one of a function's for the named variable.
func Match(need, name string) bool {
	if prefix, ok := strings.CutSuffix(need, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return need == name
}

// NeedsAny tells whether the function depends on one of the named variables.
func (f Function) NeedsAny(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return slices.ContainsFunc(f.Needs, func(need string) bool { return Match(need, name) })
	})
}

// Hide removes a file or link so that Restore can bring it back, and tells whether it was there.
func (c *Context) Hide(p string) (bool, error) {
	if _, err := c.Root.Lstat(p); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, err
	}
	if err := c.Memory.keep(p); err != nil {
		return false, err
	}
	return true, c.Root.Remove(p)
}

// Replace gives a file new content, and permissions only if it is new: those of one that is there stay, with its owner.
func (c *Context) Replace(p, content string, mode uint32) error {
	p = c.Root.Real(p)
	if !c.Root.Exists(p) {
		return c.GenerateMode(p, content, fs.FileMode(mode))
	}
	if err := c.Memory.keep(p); err != nil {
		return err
	}
	return c.Root.EditFile(p, content)
}
