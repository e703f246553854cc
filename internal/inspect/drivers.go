package inspect

import (
	"io/fs"
	"strings"
)

// What the agent loads before there is a root file system. Without a required one nothing boots.
var (
	requiredDrivers = []string{"nbd", "squashfs", "overlay"}
	usefulDrivers   = map[string]string{
		"dm_verity": "the kernel has no dm-verity: clients cannot check what they read from the network",
		"nfsv4":     "the kernel has no NFS version 4 client: homes by NFS will not work",
	}
)

// checkDrivers looks for the drivers among the modules and in the kernel itself.
func checkDrivers(image fs.FS, k kernel, compressor string) (warnings []string, err error) {
	modules, err := readModules(image, k.moduleDir)
	if err != nil {
		return nil, err
	}
	for _, name := range requiredDrivers {
		file, ok := modules[name]
		if !ok {
			return nil, refuse(ErrMissingDriver, "use a kernel of the distribution that has the driver",
				"kernel %s has %q neither as a module nor built in", k.release, name)
		}
		if file == builtin {
			continue
		}
		if _, err := fs.Stat(image, k.moduleDir+"/"+file); err != nil {
			return nil, refuse(ErrNoModules, "install the kernel's modules package (on Ubuntu linux-modules-extra) and run depmod",
				"modules.dep names /%s/%s, which is not there", k.moduleDir, file)
		}
	}
	if err := checkCompressor(image, k, compressor); err != nil {
		return nil, err
	}
	for _, name := range []string{"dm_verity", "nfsv4"} {
		if _, ok := modules[name]; !ok {
			warnings = append(warnings, usefulDrivers[name])
		}
	}
	return warnings, nil
}

// builtin stands for a path: the driver is in the kernel.
const builtin = ""

// readModules gives the path of each module below dir by its name; builtin for what needs none.
func readModules(image fs.FS, dir string) (map[string]string, error) {
	modules := map[string]string{}
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		f, err := image.Open(dir + "/" + list)
		if err != nil {
			if list == "modules.builtin" {
				continue
			}
			return nil, err
		}
		for line := range lines(f) {
			file, _, _ := strings.Cut(line, ":")
			name := moduleName(file)
			if name == "" {
				continue
			}
			if list == "modules.builtin" {
				file = builtin
			}
			modules[name] = file
		}
		_ = f.Close() // only read
	}
	return modules, nil
}

// checkCompressor asks the kernel's configuration, if the image has it, whether the kernel can read the image's own squashfs.
func checkCompressor(image fs.FS, k kernel, compressor string) error {
	option := map[string]string{"gzip": "CONFIG_SQUASHFS_ZLIB", "xz": "CONFIG_SQUASHFS_XZ", "lz4": "CONFIG_SQUASHFS_LZ4", "zstd": "CONFIG_SQUASHFS_ZSTD"}[compressor]
	if option == "" {
		return nil
	}
	for _, name := range []string{"boot/config-" + k.release, k.moduleDir + "/config"} {
		f, err := image.Open(name)
		if err != nil {
			continue
		}
		defer func() { _ = f.Close() }() // only read
		for line := range lines(f) {
			if line == "# "+option+" is not set" {
				return refuse(ErrMissingDriver, "build the image with another compressor, or use another kernel",
					"kernel %s cannot read squashfs compressed with %s (/%s: %s is not set)", k.release, compressor, name, option)
			}
		}
		return nil
	}
	return nil
}
