package imageram

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	loopControl = "/dev/loop-control"
	// attempts bounds how often somebody else may take the free device that we were told of.
	attempts = 16
)

// Attach makes a file a read-only block device and returns its node, /dev/loopN. The kernel needs its driver (loop), and devtmpfs or udev the node. The device stays
// until Detach, whatever becomes of the file's name.
func Attach(file string) (device string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("attach the image: %w", err)
	}
	defer f.Close()
	control, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("attach the image: %w", err)
	}
	defer control.Close()
	for range attempts {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("attach the image: find a loop device: %w", err)
		}
		device := fmt.Sprintf("/dev/loop%d", n)
		err = configure(device, f)
		if errors.Is(err, unix.EBUSY) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("attach the image: %s: %w", device, err)
		}
		return device, nil
	}
	return "", errors.New("attach the image: no loop device stays free")
}

func configure(device string, file *os.File) error {
	loop, err := os.OpenFile(device, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer loop.Close()
	return unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{
		Fd: uint32(file.Fd()), Size: 4096, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY},
	})
}

// Detach frees a device that Attach made, once nothing uses it.
func Detach(device string) error {
	loop, err := os.OpenFile(device, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("detach the image: %w", err)
	}
	defer loop.Close()
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
		return fmt.Errorf("detach the image: %s: %w", device, err)
	}
	return nil
}
