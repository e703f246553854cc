// Package remoteapp is the format of the files that describe remote applications, programs of another host that clients show as their own. ltspctl writes them
// into a policy's tree, as remoteapps.d/NAME.conf; agents read them below /etc/ltsp. Standard library only: it rides in every initrd.
//
// # Format
//
// Text of at most 16 KiB. Blanks around lines, keys and values don't count; empty lines and lines that begin with # are skipped. All others are KEY=VALUE. One pair
// of " or ' around a value is taken off; nothing is escaped. A value has at most 512 bytes and no control characters. The last of several lines with a key counts.
//
//	Name        title in menus; not empty
//	Comment     explanation in menus
//	Exec        program and arguments as the host's shell reads them; not empty
//	Icon        name or path of an icon on the client
//	Categories  menu categories, each with ; behind it
//	Hosts       up to 16 of NAME, NAME:PORT or [ADDRESS]:PORT with blanks or commas between; a NAME is a host's name or address
//	Trusted     whether the program gets the whole display, as with ssh -Y: a word that strconv.ParseBool takes
//
// All keys may be left out; what counts then is the reader's affair. Keys that are not known are errors: a typo would be a wrong host.
//
//	# letters
//	Name=Office
//	Exec=/opt/office/run --new
//	Hosts=app1 app2:2222
package remoteapp

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a file.
const (
	maxFile  = 16 << 10
	maxValue = 512
	maxHosts = 16
	maxName  = 64
)

// Dir is where the files lie in a policy's tree.
const Dir = "remoteapps.d"

const suffix = ".conf"

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// reserved are programs that launchers themselves, or logins, start by name on a client.
var reserved = []string{"ssh", "sshfs", "ssh-keygen", "sh", "waypipe", "xauth", "zenity", "kdialog", "xmessage", "notify-send", "systemd-run"}

// Path is where the file of an application lies in a policy's tree.
func Path(name string) string { return path.Join(Dir, name+suffix) }

// NameOf returns the application whose file lies at a path of a policy's tree. The name need not be a good one.
func NameOf(file string) (name string, ok bool) {
	dir, base := path.Split(file)
	name, ok = strings.CutSuffix(base, suffix)
	return name, ok && dir == Dir+"/"
}

// CheckName tells what is wrong with a name of an application, which is a launcher's file name and a word of a shell.
func CheckName(name string) error {
	if name == "" || len(name) > maxName || strings.Trim(name, alphanumeric+"._+-") != "" || strings.IndexByte(alphanumeric, name[0]) < 0 {
		return fmt.Errorf("want 1 to %d letters, digits and . _ + -, the first a letter or digit", maxName)
	}
	if slices.Contains(reserved, name) {
		return fmt.Errorf("clients need their own %s", name)
	}
	return nil
}

// App is what a file says. Empty fields stand for keys that are not in it, or have no value.
type App struct {
	Title, Comment, Exec, Icon, Categories string
	Hosts                                  []Host
	Trusted                                *bool
}

// texts are the keys with one line of text, in the order in which they are written.
func (a *App) texts() []struct {
	key   string
	value *string
} {
	return []struct {
		key   string
		value *string
	}{{"Name", &a.Title}, {"Comment", &a.Comment}, {"Exec", &a.Exec}, {"Icon", &a.Icon}, {"Categories", &a.Categories}}
}

// Parse reads a file. The error names the line.
func Parse(text []byte) (App, error) {
	var a App
	if len(text) > maxFile {
		return App{}, fmt.Errorf("%d bytes, at most %d are read", len(text), maxFile)
	}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		entry := strings.TrimSpace(string(line))
		if entry == "" || entry[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(entry, "=")
		if !ok {
			return App{}, fmt.Errorf("line %d: want KEY=VALUE", number)
		}
		if err := a.set(strings.TrimSpace(key), unquote(strings.TrimSpace(value))); err != nil {
			return App{}, fmt.Errorf("line %d: %w", number, err)
		}
	}
	return a, nil
}

func (a *App) set(key, value string) error {
	if err := checkValue(key, value); err != nil {
		return err
	}
	switch key {
	case "Hosts":
		hosts, err := ParseHosts(value)
		a.Hosts = hosts
		return err
	case "Trusted":
		trusted, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("%s %q: want true or false", key, value)
		}
		a.Trusted = &trusted
		return nil
	}
	for _, t := range a.texts() {
		if t.key == key {
			if value == "" && (key == "Name" || key == "Exec") {
				return fmt.Errorf("%s is empty", key)
			}
			*t.value = value
			return nil
		}
	}
	return fmt.Errorf("unknown key %q", key)
}

func checkValue(key, value string) error {
	if len(value) > maxValue || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%s %.80q: want at most %d bytes without control characters", key, value, maxValue)
	}
	return nil
}

// Encode writes a file that Parse reads as a. The error names the value that cannot be written.
func (a App) Encode() ([]byte, error) {
	var b bytes.Buffer
	for _, t := range a.texts() {
		if err := writeLine(&b, t.key, *t.value); err != nil {
			return nil, err
		}
	}
	if err := checkHosts(a.Hosts); err != nil {
		return nil, err
	}
	if err := writeLine(&b, "Hosts", FormatHosts(a.Hosts)); err != nil {
		return nil, err
	}
	if a.Trusted != nil {
		fmt.Fprintf(&b, "Trusted=%t\n", *a.Trusted)
	}
	return b.Bytes(), nil
}

// writeLine writes nothing for an empty value.
func writeLine(b *bytes.Buffer, key, value string) error {
	if value == "" {
		return nil
	}
	if err := checkValue(key, value); err != nil {
		return err
	}
	fmt.Fprintf(b, "%s=%s\n", key, quote(value))
	return nil
}

// quote keeps a reader from taking blanks or quotes off the ends of a value, which is not empty.
func quote(value string) string {
	loose := func(r rune) bool { return unicode.IsSpace(r) || r == '"' || r == '\'' }
	first, _ := utf8.DecodeRuneInString(value)
	last, _ := utf8.DecodeLastRuneInString(value)
	if loose(first) || loose(last) {
		return `"` + value + `"`
	}
	return value
}

func unquote(value string) string {
	if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
		return value[1 : len(value)-1]
	}
	return value
}
