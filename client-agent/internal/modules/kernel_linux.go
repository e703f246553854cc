package modules

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Inserter returns an Insert function for Config that loads files below dir with finit_module(2). Each module gets the parameters from extra
// in front of those that it is called with.
func Inserter(dir string, extra map[string]string) func(path, params string) error {
	return func(path, params string) error {
		f, err := os.Open(filepath.Join(dir, path))
		if err != nil {
			return err
		}
		defer f.Close()
		params = strings.TrimSpace(extra[moduleName(path)] + " " + params)
		err = unix.FinitModule(int(f.Fd()), params, 0)
		switch {
		case errors.Is(err, unix.EEXIST):
			return nil
		case errors.Is(err, unix.EKEYREJECTED):
			return fmt.Errorf("%w (Secure Boot is on: the module must keep the signature that the distribution gave it)", err)
		}
		return err
	}
}

// Modaliases returns the modalias of every device that /sys (given as its path) shows now, each once.
func Modaliases(sys string) []string {
	files, err := filepath.Glob(filepath.Join(sys, "bus/*/devices/*/modalias"))
	if err != nil {
		return nil // only a bad pattern gives an error
	}
	var list []string
	seen := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the device has gone, or shows nothing
		}
		if s := strings.TrimSpace(string(text)); s != "" && !seen[s] {
			seen[s] = true
			list = append(list, s)
		}
	}
	return list
}
