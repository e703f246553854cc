// Package dmverity maps a dm-verity device over the image disk by device-mapper ioctls (<linux/dm-ioctl.h>), without libdevmapper. The
// layout is that of an image version: data blocks, then the hash tree, 4096-byte blocks, SHA-256, no salt, no superblock.
package dmverity

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	blockSize  = 4096
	sectorSize = 512

	headerLen = int(unsafe.Sizeof(unix.DmIoctl{}))
	specLen   = int(unsafe.Sizeof(unix.DmTargetSpec{}))
	// dataStart is where the payload begins: the header, padded so that the 8-byte numbers behind it are aligned.
	dataStart = (headerLen + 7) &^ 7
	bufferLen = 16 << 10
)

// Table describes a mapping.
type Table struct {
	Device    string // block device with data and tree, such as /dev/nbd0
	DataBytes uint64 // multiple of 4096; the tree lies right behind
	Root      string // root hash, 64 hex digits
}

// sectors is the size of the mapped device.
func (t Table) sectors() uint64 { return t.DataBytes / sectorSize }

// params is the target's parameter line (Documentation/admin-guide/device-mapper/verity.rst). "-" is "no salt"; the hash start counts hash
// blocks.
func (t Table) params() (string, error) {
	if t.DataBytes == 0 || t.DataBytes%blockSize != 0 {
		return "", fmt.Errorf("verity table: %d bytes of data are no positive multiple of %d", t.DataBytes, blockSize)
	}
	if len(t.Root) != 64 || strings.Trim(t.Root, "0123456789abcdef") != "" {
		return "", fmt.Errorf("verity table: root hash %.80q is not 64 lower-case hex digits", t.Root)
	}
	blocks := t.DataBytes / blockSize
	return fmt.Sprintf("1 %s %s %d %d %d %d sha256 %s -", t.Device, t.Device, blockSize, blockSize, blocks, blocks, t.Root), nil
}

// Mapper sends one ioctl to /dev/mapper/control. The buffer begins with struct dm_ioctl and is answered in place.
type Mapper interface {
	Ioctl(request uint, buf []byte) error
}

// Create maps t under the given name, read-only, and returns the new device's node, /dev/dm-N. Nothing is read from the disk yet except by the
// mapping itself: a wrong root hash shows at the first read.
func Create(m Mapper, name string, t Table) (string, error) {
	params, err := t.params()
	if err != nil {
		return "", err
	}
	id := "LTSP-VERITY-" + t.Root
	dev, err := command(m, unix.DM_DEV_CREATE, name, id, unix.DM_READONLY_FLAG, nil)
	if err != nil {
		return "", fmt.Errorf("create verity device: %w", err)
	}
	if err := start(m, name, t, params); err != nil {
		return "", errors.Join(err, remove(m, name))
	}
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(dev)), nil
}

// Replace has a device that Create made read from another place, with the same data: what is mounted on it stays. If the kernel refuses the table, the old
// one stays in force.
func Replace(m Mapper, name string, t Table) error {
	params, err := t.params()
	if err != nil {
		return err
	}
	return start(m, name, t, params)
}

// start loads a table and makes it live.
func start(m Mapper, name string, t Table, params string) error {
	spec := unix.DmTargetSpec{Length: t.sectors()}
	copy(spec.Target_type[:], "verity")
	payload := append(encode(spec), params...)
	payload = append(payload, 0)
	if _, err := command(m, unix.DM_TABLE_LOAD, name, "", unix.DM_READONLY_FLAG, payload); err != nil {
		return fmt.Errorf("load verity table %q: %w", params, err)
	}
	// "Suspend" without its flag means resume: the loaded table becomes live, after requests under way have ended.
	if _, err := command(m, unix.DM_DEV_SUSPEND, name, "", unix.DM_READONLY_FLAG, nil); err != nil {
		return fmt.Errorf("start verity device: %w", err)
	}
	return nil
}

func remove(m Mapper, name string) error {
	if _, err := command(m, unix.DM_DEV_REMOVE, name, "", 0, nil); err != nil {
		return fmt.Errorf("remove verity device: %w", err)
	}
	return nil
}

// Corrupted tells whether a block that was read since Create did not match the root hash.
func Corrupted(m Mapper, name string) (bool, error) {
	buf, err := exchange(m, unix.DM_TABLE_STATUS, name, "", 0, nil)
	if err != nil {
		return false, fmt.Errorf("read status of verity device: %w", err)
	}
	status, err := targetText(buf)
	if err != nil {
		return false, err
	}
	return strings.HasPrefix(status, "C"), nil
}

// targetText returns the text of the first target in an answer.
func targetText(buf []byte) (string, error) {
	var h unix.DmIoctl
	if _, err := binary.Decode(buf, binary.NativeEndian, &h); err != nil {
		return "", fmt.Errorf("read device-mapper answer: %w", err)
	}
	start := uint64(h.Data_start) + uint64(specLen)
	if h.Target_count == 0 || start >= uint64(len(buf)) {
		return "", errors.New("read device-mapper answer: no target in it")
	}
	text, _, _ := bytes.Cut(buf[start:], []byte{0})
	return string(text), nil
}

func command(m Mapper, request uint, name, id string, flags uint32, payload []byte) (dev uint64, err error) {
	buf, err := exchange(m, request, name, id, flags, payload)
	if err != nil {
		return 0, err
	}
	var h unix.DmIoctl
	if _, err := binary.Decode(buf, binary.NativeEndian, &h); err != nil {
		return 0, err
	}
	return h.Dev, nil
}

// exchange sends one command and returns the answered buffer.
func exchange(m Mapper, request uint, name, id string, flags uint32, payload []byte) ([]byte, error) {
	h := unix.DmIoctl{Version: [3]uint32{4, 0, 0}, Data_size: bufferLen, Data_start: uint32(dataStart), Flags: flags}
	if len(payload) > 0 {
		h.Target_count = 1
	}
	if len(name) >= len(h.Name) || len(id) >= len(h.Uuid) || dataStart+len(payload) > bufferLen {
		return nil, errors.New("device-mapper request is too long")
	}
	copy(h.Name[:], name)
	copy(h.Uuid[:], id)
	buf := make([]byte, bufferLen)
	copy(buf, encode(h))
	copy(buf[dataStart:], payload)
	if err := m.Ioctl(request, buf); err != nil {
		return nil, err
	}
	return buf, nil
}

// encode writes a fixed-size kernel structure.
func encode(v any) []byte {
	b, err := binary.Append(nil, binary.NativeEndian, v)
	if err != nil {
		panic(err) // only a type without a fixed size gives an error
	}
	return b
}
