package initrd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/dmverity"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/imageram"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/modules"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nbdlink"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootprep"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/spool"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const (
	// ramDir is where the image lies then. It stays behind in the initrd's directory tree, as the layers of the root do.
	ramDir = "/ram"
	// ramSlack is what a tmpfs needs beside the file, in bytes.
	ramSlack = 1 << 20
)

// imageToRAM copies the image into memory if IMAGE_TO_RAM asks for it, has the mounted root read from there, and ends the root connection. Where that
// cannot be, the PC goes on over the network and the administrator is told.
func (b *boot) imageToRAM(ctx context.Context, values map[string]string) error {
	if values["IMAGE_TO_RAM"] != "1" {
		return nil
	}
	err := b.fitsRAM()
	if err == nil {
		err = b.moveToRAM(ctx)
	}
	if err == nil {
		b.inRAM = true
		b.hangUp()
		return nil
	}
	b.log.Warn("IMAGE_TO_RAM: the image is read over the network", "err", err)
	event := spool.Event(agentproto.EventPolicy, "IMAGE_TO_RAM: the image is read over the network: "+err.Error())
	if err := spool.System.AddEvent(event); err != nil {
		b.log.Warn("event not kept", "err", err)
	}
	return nil
}

func (b *boot) fitsRAM() error {
	if !b.cfg.Verity {
		return errors.New("it is not verified, so it has no mapping that could change")
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	// In an initrd there is next to nothing in caches: what is not free is in use.
	return imageram.Fits(b.cfg.SizeBytes, uint64(info.Freeram)*uint64(info.Unit))
}

// moveToRAM leaves everything as it was on error.
func (b *boot) moveToRAM(ctx context.Context) (err error) {
	if err := b.loader.Load("loop"); err != nil && !errors.Is(err, modules.ErrNotFound) { // it may be built in
		return err
	}
	size := fmt.Sprintf("mode=0700,size=%d", b.cfg.SizeBytes+ramSlack)
	if err := (mount{"ltsp-image", ramDir, "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, size}).do(); err != nil {
		return err
	}
	device := ""
	defer func() {
		if err == nil {
			return
		}
		if device != "" {
			err = errors.Join(err, imageram.Detach(device))
		}
		err = errors.Join(err, unix.Unmount(ramDir, unix.MNT_DETACH))
	}()
	file := filepath.Join(ramDir, "image")
	if err := b.copyImage(ctx, file); err != nil {
		return err
	}
	if device, err = imageram.Attach(file); err != nil {
		return err
	}
	control, err := dmverity.OpenControl()
	if err != nil {
		return err
	}
	defer control.Close()
	return dmverity.Replace(control, rootprep.RootDevice, dmverity.Table{Device: device, DataBytes: b.cfg.DataBytes, Root: b.cfg.Digest})
}

// copyImage copies data and hash tree from the root connection; every block is checked when it is read from the copy.
func (b *boot) copyImage(ctx context.Context, file string) error {
	source, err := os.Open(b.device.Path())
	if err != nil {
		return err
	}
	defer source.Close()
	b.log.Info("the image is copied into memory", "mib", b.cfg.SizeBytes>>20)
	tenths := int64(0)
	return imageram.Copy(ctx, source, int64(b.cfg.SizeBytes), file, func(done int64) {
		if now := done * 10 / int64(b.cfg.SizeBytes); now > tenths {
			tenths = now
			b.log.Info("the image is copied into memory", "percent", now*10)
		}
	})
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
