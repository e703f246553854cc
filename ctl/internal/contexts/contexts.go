// Package contexts reads and writes the file that tells ltspctl which controllers there are and who it is there: addresses, the CA, and
// the admin's certificate and key. Only ltspctl uses it; the controller's init writes the same format.
package contexts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
)

// Errors that can be tested for.
var (
	ErrNoFile    = errors.New("there is no contexts file")
	ErrNoContext = errors.New("no such context")
	ErrExposed   = errors.New("others can read the contexts file, which holds private keys")
)

// Context is one controller and the admin's credential for it. Certificates and key are PEM.
type Context struct {
	Name        string `yaml:"name"`
	Controller  string `yaml:"controller"` // HOST:PORT
	CA          string `yaml:"ca"`
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// File is the contexts file.
type File struct {
	Current  string    `yaml:"current"`
	Contexts []Context `yaml:"contexts"`
}

// DefaultPath is $LTSPCTL_CONTEXTS, else ltspctl/contexts.yaml in the user's configuration directory.
func DefaultPath() string {
	if p := os.Getenv("LTSPCTL_CONTEXTS"); p != "" {
		return p
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		dir = "/etc"
	}
	return filepath.Join(dir, "ltspctl", "contexts.yaml")
}

// Read loads the file. It refuses a file that group or others may read, because of the keys in it.
func Read(path string) (*File, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s (make one with \"ltsp-controller init --admin-context %s\" or \"ltspctl context enrol\")", ErrNoFile, path, path)
	}
	if err != nil {
		return nil, fmt.Errorf("read contexts: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: run \"chmod 600 %s\"", ErrExposed, path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read contexts: %w", err)
	}
	f := new(File)
	if err := yaml.Unmarshal(data, f); err != nil {
		return nil, fmt.Errorf("contexts file %s: %w", path, err)
	}
	return f, nil
}

// Write saves the file with mode 0600 and its directory with 0700.
func (f *File) Write(path string) error {
	data, err := yaml.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode contexts: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	return atomicfile.Write(path, data, 0o600)
}

// Get returns the named context, or the current one if name is empty.
func (f *File) Get(name string) (*Context, error) {
	if name == "" {
		name = f.Current
	}
	for i := range f.Contexts {
		if f.Contexts[i].Name == name {
			return &f.Contexts[i], nil
		}
	}
	return nil, fmt.Errorf("%w: %q (see \"ltspctl context list\")", ErrNoContext, name)
}

// Set adds or replaces a context and makes it the current one.
func (f *File) Set(c Context) {
	f.Current = c.Name
	for i := range f.Contexts {
		if f.Contexts[i].Name == c.Name {
			f.Contexts[i] = c
			return
		}
	}
	f.Contexts = append(f.Contexts, c)
}
