package school

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// Published is what `ltspctl image publish -o json` says, as far as tests look.
type Published struct {
	Image     string  `json:"image"`
	Version   Version `json:"version"`
	Created   bool    `json:"created"`
	SentBytes uint64  `json:"sent_bytes"` // bytes of chunks that the controller lacked
	Bytes     uint64  `json:"bytes"`      // bytes of all chunks, each once
}

// Version is what ltspctl says of a version, as far as tests look.
type Version struct {
	Number     uint64 `json:"number"`
	ID         string `json:"id"`
	Digest     string `json:"digest"`
	SHA256     string `json:"sha256"`
	SizeBytes  uint64 `json:"size_bytes"`
	TotalBytes uint64 `json:"total_bytes"`
}

// Version is what the controller knows of a version of the image.
func (s *School) Version(ctx context.Context, number uint64) (Version, error) {
	var image struct {
		Versions []Version `json:"versions"`
	}
	if err := s.CtlJSON(ctx, &image, "image", "show", ImageName); err != nil {
		return Version{}, err
	}
	for _, v := range image.Versions {
		if v.Number == number {
			return v, nil
		}
	}
	return Version{}, fmt.Errorf("image %s has no version %d", ImageName, number)
}

// ExportName is the NBD export of the version.
func (p *Published) ExportName() string { return p.Image + "@" + p.Version.Digest }

// Publishing says what PublishSynthetic does.
type Publishing struct {
	File     string
	Name     string   // of the image; empty: ImageName
	Contexts string   // contexts file; empty: that of the admin at the desk
	Deep     bool     // check every block of the image first
	Flags    []string // further ones
}

// PublishSynthetic publishes an image that MakeImage made to the channel. The error has the exit status of ltspctl, see ExitCode.
func (s *School) PublishSynthetic(ctx context.Context, p Publishing) (*Published, error) {
	agent, err := s.syntheticAgent()
	if err != nil {
		return nil, err
	}
	if p.Name == "" {
		p.Name = ImageName
	}
	if p.Contexts == "" {
		p.Contexts = s.Contexts()
	}
	args := []string{"--contexts", p.Contexts, "image", "publish", p.File, "--name", p.Name, "--channel", Channel,
		"--agent", agent, "--initrd-cache", s.path("initrds"), "-o", "json"}
	if !p.Deep {
		args = append(args, "--shallow")
	}
	out, err := s.run(ctx, s.desk, "ltspctl", append(args, p.Flags...)...)
	if err != nil {
		return nil, err
	}
	published := new(Published)
	if err := json.Unmarshal([]byte(out), published); err != nil {
		return nil, fmt.Errorf("ltspctl image publish printed no JSON: %w", err)
	}
	return published, nil
}

// ContextsThrough writes a contexts file in which the controller has another address, that of a Line for example, and returns its path.
func (s *School) ContextsThrough(address string) (string, error) {
	text, err := os.ReadFile(s.Contexts())
	if err != nil {
		return "", err
	}
	path := s.path("admin-" + strings.NewReplacer(":", "-", ".", "-").Replace(address) + ".yaml")
	return path, os.WriteFile(path, []byte(strings.ReplaceAll(string(text), ControllerAddr+":"+ControllerPort, address)), 0o600)
}
