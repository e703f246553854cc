package corpus

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// recipeVersion is part of every key: raise it when the same lists make other images.
const recipeVersion = 1

// Variant says which packages the versions of a root have.
type Variant struct {
	Name     string
	Base     string   // mmdebstrap's name for the set of packages to begin with
	Packages []string // installed on top of it, without recommended ones
	Weekly   []string // source packages that w takes updates of
	Apps     []string // packages that v3 adds
}

// Desktop is a school desktop: about 735 packages, 2.2 GB, images of 750 MB.
func Desktop() Variant {
	return Variant{
		Name: "desktop",
		Base: "minbase",
		Packages: strings.Fields(`systemd-sysv init udev kmod dbus linux-image-amd64 initramfs-tools sudo locales man-db less
			xserver-xorg xfce4 xfce4-goodies xfce4-terminal lightdm network-manager-gnome openssh-client ca-certificates
			firefox-esr libreoffice-writer libreoffice-gtk3 vlc cups ghostscript evince python3 perl
			fonts-noto-core fonts-liberation2 hunspell-en-us`),
		Weekly: strings.Fields(`perl openssl python3.11 poppler ghostscript nss xorg-server libxfont ca-certificates expat libpng1.6
			pcre2 parted`),
		Apps: []string{"gimp", "audacity"},
	}
}

// Small is a minimal root without kernel and apt: 140 MB, images of 40 MB, made in minutes.
func Small() Variant {
	return Variant{
		Name:     "small",
		Base:     "essential",
		Packages: strings.Fields("openssl ca-certificates python3-minimal expat less xz-utils tzdata"),
		Weekly:   strings.Fields("perl openssl ca-certificates python3.11 expat"),
		Apps:     []string{"mc", "tmux"},
	}
}

// VariantByName returns the variant called name.
func VariantByName(name string) (Variant, error) {
	for _, v := range []Variant{Small(), Desktop()} {
		if v.Name == name {
			return v, nil
		}
	}
	return Variant{}, fmt.Errorf("corpus variant %q: want small or desktop", name)
}

// All lists the images of every variant: the five versions with zstd, and the first two with gzip.
func All() []Image {
	return []Image{{"v1", "zstd"}, {"w", "zstd"}, {"v2", "zstd"}, {"v3", "zstd"}, {"v4", "zstd"}, {"v1", "gzip"}, {"w", "gzip"}}
}

// Actions of a step; the scripts know them by these names.
const (
	actionBootstrap = "bootstrap" // a root from nothing
	actionUpgrade   = "upgrade"   // of the source packages in args
	actionFull      = "full"      // of everything, the old kernel is purged
	actionInstall   = "install"   // the packages in args
	actionEdit      = "edit"      // configuration, a user, a wallpaper
	actionCopy      = "copy"      // the same files, another compressor
)

// step makes one image from another.
type step struct {
	action     string
	args       []string
	compressor string
	base       *Image // nil: from nothing
}

// step returns how an image is made. Images that are not compressed with zstd are made from the one of the same version
// that is.
func (v Variant) step(i Image) (step, error) {
	versions := map[string]step{
		"v1": {action: actionBootstrap, args: append([]string{v.Base}, v.Packages...)},
		"w":  {action: actionUpgrade, args: v.Weekly, base: &Image{"v1", "zstd"}},
		"v2": {action: actionFull, base: &Image{"v1", "zstd"}},
		"v3": {action: actionInstall, args: v.Apps, base: &Image{"v2", "zstd"}},
		"v4": {action: actionEdit, base: &Image{"v3", "zstd"}},
	}
	s, known := versions[i.Version]
	if !known {
		return step{}, fmt.Errorf("version %q: want v1, w, v2, v3 or v4", i.Version)
	}
	switch i.Compressor {
	case "zstd":
	case "gzip":
		s = step{action: actionCopy, base: &Image{i.Version, "zstd"}}
	default:
		return step{}, fmt.Errorf("compressor %q: want zstd or gzip", i.Compressor)
	}
	s.compressor = i.Compressor
	return s, nil
}

// key changes when the image that the step makes would; package versions are not in it. baseSHA256 is of the image that the
// step begins with, empty when there is none.
func (v Variant) key(s step, baseSHA256 string) string {
	hash := sha256.New()
	fmt.Fprintln(hash, recipeVersion, release, s.action, s.compressor, baseSHA256, strings.Join(s.args, ","))
	fmt.Fprintln(hash, strings.Join(excludes(), ","))
	return hex.EncodeToString(hash.Sum(nil))[:16]
}

// excludes are the paths, with wildcards, that do not come into an image: what LTSP leaves out, and apt's binary caches and
// ldconfig's, which differ after every update and are made anew when needed.
func excludes() []string {
	var list []string
	for _, dir := range []string{"cdrom", "dev", "home", "lost+found", "media", "mnt", "proc", "root", "run", "srv", "sys", "tmp",
		"var/backups", "var/cache/apt/archives", "var/crash", "var/lib/apt/lists", "var/lib/lightdm", "var/lib/sudo",
		"var/lib/systemd/linger", "var/log", "var/mail", "var/spool/cups", "var/spool/mail", "var/tmp"} {
		list = append(list, dir+"/*", dir+"/.[!.]*")
	}
	return append(list, "etc/NetworkManager/system-connections/*", "etc/ssh/ssh_host_*", "etc/udev/rules.d/70-persistent-*",
		"var/cache/apt/*.bin", "var/cache/ldconfig/aux-cache", "var/lib/dpkg/*-old", "swapfile", "var/swap")
}
