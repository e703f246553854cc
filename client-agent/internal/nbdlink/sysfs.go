package nbdlink

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

func isOverrun(err error) bool { return errors.Is(err, unix.ENOBUFS) }

// SetQueue writes a number into a block device's queue settings, for example read_ahead_kb. Sys is the path of sysfs, device a name such as nbd0.
func SetQueue(sys, device, setting string, value int) error {
	file := filepath.Join(sys, "block", device, "queue", setting)
	if err := os.WriteFile(file, []byte(strconv.Itoa(value)), 0o644); err != nil {
		return fmt.Errorf("set %s of %s: %w", setting, device, err)
	}
	return nil
}
