package dmverity

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ControlPath is the device-mapper's control node; devtmpfs has it when dm-mod is loaded.
const ControlPath = "/dev/mapper/control"

// Control is the kernel's device-mapper.
type Control struct {
	file *os.File
}

// OpenControl opens the control node.
func OpenControl() (*Control, error) {
	f, err := os.OpenFile(ControlPath, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open device-mapper: %w", err)
	}
	return &Control{file: f}, nil
}

// Close closes the control node; devices stay.
func (c *Control) Close() error { return c.file.Close() }

// Ioctl implements Mapper.
func (c *Control) Ioctl(request uint, buf []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, c.file.Fd(), uintptr(request), uintptr(unsafe.Pointer(unsafe.SliceData(buf))))
	runtime.KeepAlive(c.file)
	if errno != 0 {
		return errno
	}
	return nil
}
