package fleet

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// BootloadersImage is the name of the one image of kind Bootloaders; its channel DefaultChannel goes to every site.
const (
	BootloadersImage = "bootloaders"
	DefaultChannel   = "stable"
)

// Limits of an image.
const (
	MaxChannels = 64
	maxHistory  = 32
)

// Image is a named root file system, or the set of boot loaders, with its channels. Key: Name.
type Image struct {
	Name     string             `json:"name"`
	Kind     manifest.Kind      `json:"kind"`
	Created  time.Time          `json:"created"`
	Channels map[string]Channel `json:"channels,omitempty"`
	// LastNumber is the highest number ever given; numbers are not given twice.
	LastNumber uint64 `json:"last_number"`
}

// Channel is a movable name for a version. History holds where it pointed before, the oldest first.
type Channel struct {
	Name    string    `json:"name"`
	Version uint64    `json:"version"`
	History []uint64  `json:"history,omitempty"`
	Changed time.Time `json:"changed"`
}

// Previous is where a rollback would go to; 0 if nowhere.
func (c Channel) Previous() uint64 {
	if len(c.History) == 0 {
		return 0
	}
	return c.History[len(c.History)-1]
}

// Version is one immutable published state of an image. Key: Image and Number.
type Version struct {
	Image      string        `json:"image"`
	Number     uint64        `json:"number"`
	Kind       manifest.Kind `json:"kind"`
	ID         manifest.ID   `json:"id"`
	Digest     Hash          `json:"digest"`
	SHA256     Hash          `json:"sha256"`
	SizeBytes  uint64        `json:"size_bytes"`
	TotalBytes uint64        `json:"total_bytes"`
	Arch       string        `json:"arch,omitempty"`
	Release    string        `json:"kernel_release,omitempty"`
	OS         string        `json:"os,omitempty"`
	Note       string        `json:"note,omitempty"`
	Source     string        `json:"source,omitempty"`
	Publisher  string        `json:"publisher"`
	Created    time.Time     `json:"created"`
}

// Name returns IMAGE@NUMBER.
func (v Version) Name() string { return VersionName(v.Image, v.Number) }

// VersionName returns IMAGE@NUMBER.
func VersionName(image string, number uint64) string { return fmt.Sprintf("%s@%d", image, number) }

// VersionOf makes the record of a numbered manifest.
func VersionOf(m *manifest.Manifest) Version {
	v := Version{
		Image: m.Name, Number: m.Number, Kind: m.Kind, ID: m.ID(), Digest: Hash(m.Digest), TotalBytes: m.TotalBytes(),
		Arch: m.Arch, Release: m.Release, OS: m.OS, Note: m.Note, Source: m.Source, Publisher: m.Publisher, Created: m.Created,
	}
	if root, ok := m.Artifact(manifest.Squashfs); ok && m.Kind == manifest.Image {
		v.SHA256, v.SizeBytes = Hash(root.SHA256), root.Size
	}
	return v
}

// CheckDraft refuses what no image may be made of. image is the present state, nil if there is none yet.
func CheckDraft(m *manifest.Manifest, image *Image) error {
	if (m.Kind == manifest.Bootloaders) != (m.Name == BootloadersImage) {
		return invalid("a version of kind %s in image %s: boot loaders live in the image %s, and nothing else does", m.Kind, m.Name, BootloadersImage)
	}
	if image != nil && image.Kind != m.Kind {
		return invalid("image %s is of kind %s, the new version of kind %s", m.Name, image.Kind, m.Kind)
	}
	for what, s := range map[string]string{"architecture": m.Arch, "kernel release": m.Release, "operating system": m.OS, "note": m.Note, "source": m.Source} {
		if err := checkText(what, s); err != nil {
			return err
		}
	}
	if m.Kind == manifest.Image && m.Arch != "amd64" && m.Arch != "arm64" {
		return invalid("architecture %q: want amd64 or arm64", m.Arch)
	}
	return nil
}

// CheckChannels checks the names of channels that shall be set.
func CheckChannels(names []string) error {
	if len(names) > MaxChannels {
		return invalid("%d channels, at most %d are allowed", len(names), MaxChannels)
	}
	for _, name := range names {
		if err := manifest.CheckName(name); err != nil {
			return invalid("channel %v", err)
		}
	}
	return nil
}

// Point lets a channel point to a version, which must exist. It reports false if the channel points there already.
func (i *Image) Point(channel string, version uint64, now time.Time) (bool, error) {
	if err := CheckChannels([]string{channel}); err != nil {
		return false, err
	}
	c, ok := i.Channels[channel]
	if ok && c.Version == version {
		return false, nil
	}
	if !ok && len(i.Channels) >= MaxChannels {
		return false, invalid("image %s has %d channels, no more are allowed", i.Name, MaxChannels)
	}
	if ok {
		c.History = append(slices.Clone(c.History), c.Version)
		c.History = c.History[max(0, len(c.History)-maxHistory):]
	}
	i.set(Channel{Name: channel, Version: version, History: c.History, Changed: now})
	return true, nil
}

// Rollback lets a channel point to where it pointed before.
func (i *Image) Rollback(channel string, now time.Time) error {
	c, ok := i.Channels[channel]
	if !ok {
		return Errorf(ErrNotFound, "image %s has no channel %s", i.Name, channel)
	}
	if c.Previous() == 0 {
		return Errorf(ErrState, "channel %s:%s has pointed to nothing but version %d; there is nothing to go back to", i.Name, channel, c.Version)
	}
	last := len(c.History) - 1
	i.set(Channel{Name: channel, Version: c.History[last], History: slices.Clone(c.History[:last]), Changed: now})
	return nil
}

// set replaces a channel without touching the map that other copies of the image share.
func (i *Image) set(c Channel) {
	channels := make(map[string]Channel, len(i.Channels)+1)
	maps.Copy(channels, i.Channels)
	channels[c.Name] = c
	i.Channels = channels
}

// Forget takes a version out of the histories of the channels. ErrInUse if a channel points to it.
func (i *Image) Forget(version uint64) error {
	for _, name := range i.ChannelNames() {
		if i.Channels[name].Version == version {
			return Errorf(ErrInUse, "channel %s:%s points to version %d; move the channel first", i.Name, name, version)
		}
	}
	for _, name := range i.ChannelNames() {
		c := i.Channels[name]
		c.History = slices.DeleteFunc(slices.Clone(c.History), func(n uint64) bool { return n == version })
		c.History = dropRepeats(c.History, c.Version)
		i.set(c)
	}
	return nil
}

// dropRepeats removes steps of a history that would go nowhere, now that a version between them is gone.
func dropRepeats(history []uint64, present uint64) []uint64 {
	history = slices.Compact(history)
	for len(history) > 0 && history[len(history)-1] == present {
		history = history[:len(history)-1]
	}
	return history
}

// ChannelNames returns the names of the channels in order.
func (i *Image) ChannelNames() []string {
	names := make([]string, 0, len(i.Channels))
	for name := range i.Channels {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// ChannelsAt returns the names of the channels that point to a version, in order.
func (i *Image) ChannelsAt(version uint64) []string {
	return slices.DeleteFunc(i.ChannelNames(), func(name string) bool { return i.Channels[name].Version != version })
}
