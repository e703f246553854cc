package fleet

import (
	"strconv"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Reference names a version: IMAGE:CHANNEL, which moves, or IMAGE@NUMBER, which does not.
type Reference struct {
	Image   string
	Channel string
	Number  uint64 // 0 if Channel is set
}

// ParseReference reads IMAGE:CHANNEL or IMAGE@NUMBER.
func ParseReference(s string) (Reference, error) {
	image, rest, ok := strings.Cut(s, ":")
	if ok && manifest.CheckName(image) == nil && manifest.CheckName(rest) == nil {
		return Reference{Image: image, Channel: rest}, nil
	}
	image, rest, ok = strings.Cut(s, "@")
	if ok && manifest.CheckName(image) == nil {
		if n, err := strconv.ParseUint(rest, 10, 64); err == nil && n > 0 && strconv.FormatUint(n, 10) == rest {
			return Reference{Image: image, Number: n}, nil
		}
	}
	return Reference{}, invalid("%q names no version: want IMAGE:CHANNEL or IMAGE@NUMBER", s)
}

func (r Reference) String() string {
	if r.Channel != "" {
		return r.Image + ":" + r.Channel
	}
	return r.Image + "@" + strconv.FormatUint(r.Number, 10)
}

// Library looks up images and versions. A false result means that there is none, or none yet.
type Library interface {
	Image(name string) (Image, bool)
	Version(image string, number uint64) (Version, bool)
}

// resolve returns the version that a reference means now.
func (r Reference) resolve(lib Library) (Version, bool) {
	number := r.Number
	if r.Channel != "" {
		image, ok := lib.Image(r.Image)
		if !ok {
			return Version{}, false
		}
		number = image.Channels[r.Channel].Version
	}
	if number == 0 {
		return Version{}, false
	}
	return lib.Version(r.Image, number)
}

// checkBoot checks what clients shall boot. A channel may be named before it exists (a site may be set up before its first image is
// published); a number may not. Empty is always allowed.
func checkBoot(what, s string, lib Library) error {
	if s == "" {
		return nil
	}
	r, err := ParseReference(s)
	if err != nil {
		return invalid("%s: %v", what, err)
	}
	if image, ok := lib.Image(r.Image); ok && image.Kind != manifest.Image {
		return invalid("%s: image %s holds boot loaders, clients cannot boot it", what, r.Image)
	}
	if r.Number != 0 {
		if _, ok := r.resolve(lib); !ok {
			return invalid("%s: there is no version %s", what, r)
		}
	}
	return nil
}

// checkChannelBoot is checkBoot for places where only IMAGE:CHANNEL may stand.
func checkChannelBoot(what, s string, lib Library) error {
	if err := checkBoot(what, s, lib); err != nil || s == "" {
		return err
	}
	if r, err := ParseReference(s); err != nil || r.Channel == "" {
		return invalid("%s: %q names no channel: want IMAGE:CHANNEL", what, s)
	}
	return nil
}
