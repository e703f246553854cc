package delta

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// unnamed makes a file without a name in dir (empty: os.TempDir), of which nothing stays when the process ends.
func unnamed(dir, pattern string) (*os.File, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	if f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600); err == nil {
		return f, nil
	}
	f, err := os.CreateTemp(dir, pattern) // a file system that has no such files, or a wrong directory, which this tells better
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
