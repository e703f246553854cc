// Package remoteapp reads and writes the files of a policy that name remote applications: remoteapps.d/NAME.conf, lines KEY=VALUE. Clients make launchers
// of them. Only ltspctl uses it.
package remoteapp

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// App is one remote application. Empty fields are not written, and mean what the client makes of the name and of ltsp.conf.
type App struct {
	Name       string `json:"name"`            // of the launcher
	Title      string `json:"title,omitempty"` // in menus
	Comment    string `json:"comment,omitempty"`
	Exec       string `json:"exec,omitempty"` // program and arguments as the host's shell reads them
	Icon       string `json:"icon,omitempty"`
	Categories string `json:"categories,omitempty"`
	Hosts      string `json:"hosts,omitempty"` // NAME or NAME:PORT, with blanks between
	Trusted    bool   `json:"trusted,omitempty"`
}

const (
	dir      = "remoteapps.d/"
	suffix   = ".conf"
	maxValue = 512
)

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// Path is where the application's file lies in a tree.
func Path(name string) string { return dir + name + suffix }

// values are the keys of a file and what they set, in the order in which they are written.
func (a *App) values() []struct {
	key   string
	value *string
} {
	return []struct {
		key   string
		value *string
	}{{"Name", &a.Title}, {"Comment", &a.Comment}, {"Exec", &a.Exec}, {"Icon", &a.Icon}, {"Categories", &a.Categories}, {"Hosts", &a.Hosts}}
}

// Encode makes the file. An error names the value that cannot be written.
func (a *App) Encode() (policy.File, error) {
	f := policy.File{Path: Path(a.Name), Kind: policy.Regular, Mode: 0o644}
	if !nameRule.MatchString(a.Name) {
		return f, fmt.Errorf("name %q: want 1 to 64 letters, digits and . _ + -", a.Name)
	}
	var b bytes.Buffer
	for _, v := range a.values() {
		if *v.value == "" {
			continue
		}
		if len(*v.value) > maxValue || strings.ContainsFunc(*v.value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return f, fmt.Errorf("%s %q: want at most %d bytes in one line", strings.ToLower(v.key), *v.value, maxValue)
		}
		fmt.Fprintf(&b, "%s=%s\n", v.key, quote(*v.value))
	}
	if a.Trusted {
		b.WriteString("Trusted=true\n")
	}
	f.Content = b.Bytes()
	return f, nil
}

// quote keeps a reader from taking blanks or quotes off the ends of a value.
func quote(value string) string {
	if strings.ContainsAny(value[:1]+value[len(value)-1:], " \t\"'") {
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

// List returns the applications of a tree in the order of their names, and the errors of files that cannot be read.
func List(tree policy.Tree) ([]App, error) {
	var apps []App
	var errs []error
	for _, f := range tree {
		name, ok := strings.CutPrefix(f.Path, dir)
		if name, ok2 := strings.CutSuffix(name, suffix); ok && ok2 && f.Kind == policy.Regular && !strings.Contains(name, "/") {
			app, err := decode(name, f.Content)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", f.Path, err))
				continue
			}
			apps = append(apps, app)
		}
	}
	return apps, errors.Join(errs...)
}

func decode(name string, text []byte) (App, error) {
	app := App{Name: name}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		entry := strings.TrimSpace(string(line))
		if entry == "" || entry[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(entry, "=")
		if !ok {
			return app, fmt.Errorf("line %d: want KEY=VALUE", number)
		}
		if err := app.set(strings.TrimSpace(key), unquote(strings.TrimSpace(value))); err != nil {
			return app, fmt.Errorf("line %d: %w", number, err)
		}
	}
	return app, nil
}

func (a *App) set(key, value string) (err error) {
	if key == "Trusted" {
		a.Trusted, err = strconv.ParseBool(value)
		return err
	}
	for _, v := range a.values() {
		if v.key == key {
			*v.value = value
			return nil
		}
	}
	return fmt.Errorf("unknown key %q", key)
}
