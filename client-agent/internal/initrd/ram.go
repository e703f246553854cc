package initrd

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/dmverity"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nbdlink"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/ramdisk"
)

// ramDir is where the image lies then. It stays behind in the initrd's directory tree, where the kernel holds it.
const ramDir = "/ram"

// imageToRAM copies the image into memory if IMAGE_TO_RAM asks for it, has the mounted root read from there, and ends the root connection. Each block is
// checked against the image's digest while it is copied.
func (b *boot) imageToRAM(ctx context.Context, values map[string]string) error {
	if values["IMAGE_TO_RAM"] != "1" {
		return nil
	}
	if !b.cfg.Verity {
		b.log.Warn("IMAGE_TO_RAM has no effect: the image is not verified, so it has no mapping that could change")
		return nil
	}
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	if err := ramdisk.CheckRoom(string(meminfo), b.cfg.DataBytes); err != nil {
		return fmt.Errorf("IMAGE_TO_RAM: %w", err)
	}
	b.log.Info("the image is copied into memory", "mib", b.cfg.DataBytes>>20)
	device, err := ramdisk.Copy(ctx, b.root, ramDir, b.cfg.DataBytes, func(percent int) {
		if percent%10 == 0 {
			b.log.Info("the image is copied into memory", "percent", percent)
		}
	})
	if err != nil {
		return b.blameVerity(fmt.Errorf("IMAGE_TO_RAM: %w", err))
	}
	if err := b.readFrom(device); err != nil {
		return fmt.Errorf("IMAGE_TO_RAM: %w", err)
	}
	b.inRAM = true
	b.hangUp()
	return nil
}

func (b *boot) readFrom(device string) error {
	control, err := dmverity.OpenControl()
	if err != nil {
		return err
	}
	defer control.Close()
	return dmverity.Replace(control, verityName, device, b.cfg.DataBytes)
}

// hangUp ends the keeper and the root connection. The image is where it is needed, so what goes wrong here is worth a line only.
func (b *boot) hangUp() {
	err := unix.Kill(b.keeper, unix.SIGKILL)
	if err == nil {
		_, err = unix.Wait4(b.keeper, nil, 0, nil)
	}
	link, openErr := nbdlink.Open()
	if openErr == nil {
		openErr = link.Disconnect(b.device.Index)
		link.Close()
	}
	if err := errors.Join(err, openErr); err != nil {
		b.log.Warn("the root connection, which is not needed any more, was not ended", "err", err)
	}
}
