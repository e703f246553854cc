package dmverity

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Replace has a mapped device read from another block device from now on, which must hold the same data; what is mounted on it stays so. Reads wait
// for the change. Nothing checks the blocks any more: whoever copied them through the old mapping has had them checked.
func Replace(m Mapper, name, device string, dataBytes uint64) error {
	spec := unix.DmTargetSpec{Length: dataBytes / sectorSize}
	copy(spec.Target_type[:], "linear")
	payload := append(append(encode(spec), device+" 0"...), 0)
	if _, err := command(m, unix.DM_TABLE_LOAD, name, "", unix.DM_READONLY_FLAG, payload); err != nil {
		return fmt.Errorf("load linear table on %s: %w", device, err)
	}
	// The file system need not be frozen: it is read only.
	const hold = unix.DM_SUSPEND_FLAG | unix.DM_SKIP_LOCKFS_FLAG | unix.DM_READONLY_FLAG
	if _, err := command(m, unix.DM_DEV_SUSPEND, name, "", hold, nil); err != nil {
		return fmt.Errorf("hold %s: %w", name, err)
	}
	if _, err := command(m, unix.DM_DEV_SUSPEND, name, "", unix.DM_READONLY_FLAG, nil); err != nil {
		return fmt.Errorf("go on with %s: %w", name, err)
	}
	return nil
}
