// Package ltspcorpus holds ltsp.conf files that exercise each rule of LTSP's language, with what they come to for several clients (testdata/NNN-NAME: ltsp.conf,
// perhaps ltsp-APPLET.conf, and expect.json). Tests put them through internal/ltspeval, and component tests through the evaluator of the Debian package ltsp
// and, as internal/ltspconf translates them, through dash and busybox.
package ltspcorpus

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
)

// Case is one directory of the corpus.
type Case struct {
	Name  string `json:"-"`
	Dir   string `json:"-"`
	About string `json:"about"`
	// Clients are who the files are evaluated for.
	Clients []Client `json:"clients"`
}

// Client is one evaluation with its result.
type Client struct {
	Name     string `json:"name"`
	MAC      string `json:"mac"`
	IP       string `json:"ip"`
	Hostname string `json:"hostname"`
	Applet   string `json:"applet"`
	Server   bool   `json:"server,omitempty"`
	// Values are all variables that the files set, with their values at the end.
	Values map[string]string `json:"values"`
	// Inexact are names whose values hang on the client.
	Inexact []string `json:"inexact,omitempty"`
	// Differs gives reasons why a name's value is not compared with that of LTSP.
	Differs map[string]string `json:"differs,omitempty"`
	// Refused is the reason why LTSP, and it alone, does not take the files.
	Refused string `json:"refused,omitempty"`
	// Error is "syntax" when no evaluator takes the files.
	Error string `json:"error,omitempty"`
}

// Subject is the client as the evaluators want it.
func (c Client) Subject() ltspconf.Subject {
	return ltspconf.Subject{MAC: c.MAC, IP: c.IP, Hostname: c.Hostname, Applet: c.Applet, Server: c.Server}
}

// Load reads the corpus below a directory, in the order of its names.
func Load(dir string) ([]Case, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "expect.json"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("find cases in %q: %d found: %v", dir, len(files), err)
	}
	var cases []Case
	for _, f := range files {
		c := Case{Dir: filepath.Dir(f), Name: filepath.Base(filepath.Dir(f))}
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, &c); err != nil {
			return nil, fmt.Errorf("read %q: %w", f, err)
		}
		cases = append(cases, c)
	}
	return cases, nil
}

// Sources reads the case's files that an applet evaluates.
func (c Case) Sources(applet string) ([]ltspeval.Source, error) {
	var sources []ltspeval.Source
	for _, name := range []string{"ltsp.conf", "ltsp-" + applet + ".conf"} {
		text, err := os.ReadFile(filepath.Join(c.Dir, name))
		if os.IsNotExist(err) && name != "ltsp.conf" {
			continue
		}
		if err != nil {
			return nil, err
		}
		sources = append(sources, ltspeval.Source{File: name, Text: text})
	}
	return sources, nil
}
