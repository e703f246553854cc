package initrd

import (
	"bytes"
	"debug/elf"
	"errors"
	"io/fs"
	"path"
	"strings"
)

// firmwareDirs are searched in the kernel's own order (drivers/base/firmware_loader/main.c).
func firmwareDirs(release string) []string {
	return []string{"lib/firmware/updates/" + release, "lib/firmware/updates", "lib/firmware/" + release, "lib/firmware",
		"usr/lib/firmware/updates", "usr/lib/firmware"}
}

// firmwareOf reads the firmware names out of a module's .modinfo section: "key=value" texts, each ended by a zero byte.
func firmwareOf(ko []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, nil
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	var names []string
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		if name, ok := strings.CutPrefix(string(entry), "firmware="); ok && fs.ValidPath(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// addFirmware notes the files for the names; a name may be a pattern.
func (b *builder) addFirmware(names []string) error {
	for _, name := range names {
		found, err := b.findFirmware(name)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			b.stats.MissingFirmware = append(b.stats.MissingFirmware, name)
		}
		for plain, file := range found {
			fi, err := fs.Stat(b.image, file)
			if err != nil {
				return err
			}
			b.files["lib/firmware/"+plain] = source{size: fi.Size(), perm: 0o644, open: func() ([]byte, error) { return readExpanded(b.image, file) }}
		}
	}
	for name := range b.files {
		if strings.HasPrefix(name, "lib/firmware/") {
			b.stats.FirmwareFiles++
		}
	}
	return nil
}

// findFirmware gives the files of the first directory that has the name, by the name without the compression's suffix.
func (b *builder) findFirmware(name string) (map[string]string, error) {
	for _, dir := range firmwareDirs(b.options.KernelRelease) {
		found := map[string]string{}
		for _, suffix := range []string{"", ".xz", ".zst"} {
			files := []string{path.Join(dir, name) + suffix}
			if strings.ContainsAny(name, "*?[") {
				var err error
				if files, err = fs.Glob(b.image, path.Join(dir, name)+suffix); errors.Is(err, path.ErrBadPattern) {
					return nil, nil
				}
			}
			for _, file := range files {
				fi, err := fs.Stat(b.image, file)
				if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.Mode().IsRegular() {
					continue
				}
				if err != nil {
					return nil, err
				}
				plain := strings.TrimSuffix(strings.TrimPrefix(file, dir+"/"), suffix)
				if _, ok := found[plain]; !ok {
					found[plain] = file
				}
			}
		}
		if len(found) > 0 {
			return found, nil
		}
	}
	return nil, nil
}
