package datadir

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
)

// Contexts is ltspctl's contexts file.
type Contexts struct {
	Current  string    `yaml:"current"`
	Contexts []Context `yaml:"contexts"`
}

// Context is a controller and a credential for it. CA, Certificate and Key are PEM.
type Context struct {
	Name        string `yaml:"name"`
	Controller  string `yaml:"controller"` // HOST:PORT
	CA          string `yaml:"ca"`
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// CheckContext refuses to write a contexts file over one that somebody else has made. One that holds the CA caPEM is ours: an interrupted Init
// left it.
func CheckContext(path string, caPEM []byte) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the admin context: %w", err)
	}
	var old Contexts
	if yaml.Unmarshal(text, &old) == nil && len(old.Contexts) == 1 && bytes.Equal([]byte(old.Contexts[0].CA), caPEM) {
		return nil
	}
	return fmt.Errorf("%s exists; name another file for the admin context, or move that one away", path)
}

// WriteContext writes a contexts file with one context, readable by its owner only, and makes its directory.
func WriteContext(path string, c Context) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the directory of the admin context: %w", err)
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(Contexts{Current: c.Name, Contexts: []Context{c}}); err != nil {
		return fmt.Errorf("encode the admin context: %w", err)
	}
	return atomicfile.Write(path, b.Bytes(), 0o600)
}
