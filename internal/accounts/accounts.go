// Package accounts reads and writes passwd(5), group(5), shadow(5) and gshadow(5) and merges the accounts of a login host into those of an image by LTSP's rules.
// It is pure: bytes in, bytes out, no files. What it reads may come from another machine: names that could do harm are left out, with a reason.
package accounts

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Limits of what is read. Lines beyond are left out, with one reason.
const (
	MaxLines  = 200_000 // of one file
	MaxLine   = 256 << 10
	MaxName   = 255
	MaxReason = 64 // reasons of one file that are told one by one
)

// maxID is the largest user or group ID; the one above it means none.
const maxID = 1<<32 - 2

// User is one account.
type User struct {
	Name     string
	Password string // field of passwd: "x" where shadow has it
	UID, GID uint32
	Gecos    string
	Home     string
	Shell    string
}

// Group is one group. Members have no duplicates.
type Group struct {
	Name     string
	Password string
	GID      uint32
	Members  []string
}

// Shadow is what shadow has on a user: the password field, and the seven others as they are.
type Shadow struct {
	Name     string
	Password string
	Rest     string // "19000:0:99999:7:::"
}

// GroupShadow is what gshadow has on a group beside its members.
type GroupShadow struct {
	Name     string
	Password string
	Admins   string
	Members  []string
}

// Passwd is a parsed file. Of two lines with one name the later counts, in the place of the first.
type Passwd struct {
	Users   []User
	Reasons []string // why lines were left out
}

// Groups is a parsed group file, like Passwd.
type Groups struct {
	Groups  []Group
	Reasons []string
}

// Shadows is a parsed shadow file, like Passwd.
type Shadows struct {
	Shadows []Shadow
	Reasons []string
}

// GroupShadows is a parsed gshadow file, like Passwd.
type GroupShadows struct {
	Groups  []GroupShadow
	Reasons []string
}

// Find returns the user of that name.
func (p Passwd) Find(name string) (User, bool) {
	for _, u := range p.Users {
		if u.Name == name {
			return u, true
		}
	}
	return User{}, false
}

// reasons collects why lines were left out, a bounded number.
type reasons struct {
	file string
	list []string
	more int
}

func (r *reasons) add(line int, format string, args ...any) {
	if len(r.list) == MaxReason {
		r.more++
		return
	}
	r.list = append(r.list, fmt.Sprintf("%s line %d: ", r.file, line)+fmt.Sprintf(format, args...))
}

func (r *reasons) done() []string {
	if r.more > 0 {
		r.list = append(r.list, fmt.Sprintf("%s: %d more lines were left out", r.file, r.more))
	}
	return r.list
}

// lines calls each with the fields of each line that has that many.
func lines(file string, text []byte, fields int, each func(f []string) error) []string {
	r := reasons{file: file}
	for n := 1; len(text) > 0; n++ {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		if n > MaxLines {
			r.list = append(r.list, fmt.Sprintf("%s: more than %d lines, the rest was left out", file, MaxLines))
			break
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if len(line) > MaxLine {
			r.add(n, "more than %d bytes", MaxLine)
			continue
		}
		if bytes.ContainsFunc(line, isControl) {
			r.add(n, "a control character")
			continue
		}
		f := strings.Split(string(line), ":")
		if len(f) != fields {
			r.add(n, "%d fields, want %d", len(f), fields)
			continue
		}
		if err := each(f); err != nil {
			r.add(n, "%v", err)
		}
	}
	return r.done()
}

func isControl(c rune) bool { return c < ' ' || c == 0x7f }

// table keeps entries by name in the order of their first appearance.
type table[E any] struct {
	list  []E
	index map[string]int
}

func (t *table[E]) put(name string, e E) {
	if t.index == nil {
		t.index = map[string]int{}
	}
	if i, ok := t.index[name]; ok {
		t.list[i] = e
		return
	}
	t.index[name] = len(t.list)
	t.list = append(t.list, e)
}

// checkName refuses names that tools or files would take for something else. Blanks are allowed in groups, which directories have.
func checkName(kind, name string, blanks bool) error {
	switch {
	case name == "" || len(name) > MaxName:
		return fmt.Errorf("a %s's name has 1 to %d bytes", kind, MaxName)
	case strings.ContainsAny(name[:1], "-+~@%#"):
		return fmt.Errorf("%s %q begins with a character that has another meaning", kind, name)
	case name == "." || name == ".." || strings.ContainsAny(name, "/,:;*?!|&$<>`'\"(){}[]"):
		return fmt.Errorf("%s %q has a character that has another meaning", kind, name)
	case !blanks && strings.ContainsAny(name, " \t"), name != strings.TrimSpace(name):
		return fmt.Errorf("%s %q has a blank", kind, name)
	}
	return nil
}

func parseID(kind, text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n > maxID {
		return 0, fmt.Errorf("%s ID %q is no number from 0 to %d", kind, text, maxID)
	}
	return uint32(n), nil
}

// ParsePasswd reads a passwd file.
func ParsePasswd(text []byte) Passwd {
	var t table[User]
	why := lines("passwd", text, 7, func(f []string) error {
		if err := checkName("user", f[0], false); err != nil {
			return err
		}
		uid, err := parseID("user", f[2])
		if err != nil {
			return err
		}
		gid, err := parseID("group", f[3])
		if err != nil {
			return err
		}
		t.put(f[0], User{Name: f[0], Password: f[1], UID: uid, GID: gid, Gecos: f[4], Home: f[5], Shell: f[6]})
		return nil
	})
	return Passwd{t.list, why}
}

// ParseGroup reads a group file. Members whose names are refused are left out one by one.
func ParseGroup(text []byte) Groups {
	var t table[Group]
	why := lines("group", text, 4, func(f []string) error {
		if err := checkName("group", f[0], true); err != nil {
			return err
		}
		gid, err := parseID("group", f[2])
		if err != nil {
			return err
		}
		t.put(f[0], Group{Name: f[0], Password: f[1], GID: gid, Members: members(f[3])})
		return nil
	})
	return Groups{t.list, why}
}

func members(text string) []string {
	var list []string
	seen := map[string]bool{}
	for name := range strings.SplitSeq(text, ",") {
		if !seen[name] && checkName("user", name, false) == nil {
			seen[name] = true
			list = append(list, name)
		}
	}
	return list
}

// ParseShadow reads a shadow file.
func ParseShadow(text []byte) Shadows {
	var t table[Shadow]
	why := lines("shadow", text, 9, func(f []string) error {
		if err := checkName("user", f[0], false); err != nil {
			return err
		}
		t.put(f[0], Shadow{Name: f[0], Password: f[1], Rest: strings.Join(f[2:], ":")})
		return nil
	})
	return Shadows{t.list, why}
}

// ParseGroupShadow reads a gshadow file.
func ParseGroupShadow(text []byte) GroupShadows {
	var t table[GroupShadow]
	why := lines("gshadow", text, 4, func(f []string) error {
		if err := checkName("group", f[0], true); err != nil {
			return err
		}
		t.put(f[0], GroupShadow{Name: f[0], Password: f[1], Admins: f[2], Members: members(f[3])})
		return nil
	})
	return GroupShadows{t.list, why}
}

// FormatPasswd returns the text of a passwd file.
func FormatPasswd(users []User) []byte {
	var b bytes.Buffer
	for _, u := range users {
		fmt.Fprintf(&b, "%s:%s:%d:%d:%s:%s:%s\n", u.Name, u.Password, u.UID, u.GID, u.Gecos, u.Home, u.Shell)
	}
	return b.Bytes()
}

// FormatGroup returns the text of a group file.
func FormatGroup(groups []Group) []byte {
	var b bytes.Buffer
	for _, g := range groups {
		fmt.Fprintf(&b, "%s:%s:%d:%s\n", g.Name, g.Password, g.GID, strings.Join(g.Members, ","))
	}
	return b.Bytes()
}

// FormatShadow returns the text of a shadow file.
func FormatShadow(shadows []Shadow) []byte {
	var b bytes.Buffer
	for _, s := range shadows {
		fmt.Fprintf(&b, "%s:%s:%s\n", s.Name, s.Password, s.Rest)
	}
	return b.Bytes()
}

// FormatGroupShadow returns the text of a gshadow file.
func FormatGroupShadow(groups []GroupShadow) []byte {
	var b bytes.Buffer
	for _, g := range groups {
		fmt.Fprintf(&b, "%s:%s:%s:%s\n", g.Name, g.Password, g.Admins, strings.Join(g.Members, ","))
	}
	return b.Bytes()
}
