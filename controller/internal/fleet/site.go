package fleet

import (
	"slices"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// Limits of a site.
const (
	MaxSiteImages = 64
	MaxSubnets    = 256
	MaxClients    = 10000
)

// Site is one classroom network that is served together. Key: Name.
type Site struct {
	Name        string     `json:"name"`
	Description string     `json:"description,omitempty"`
	Images      []string   `json:"images,omitempty"` // IMAGE:CHANNEL; the first is what clients boot where nothing else is said
	Boot        BootPolicy `json:"boot"`
	Transfer    Transfer   `json:"transfer,omitzero"`
	LoginHost   LoginHost  `json:"login_host,omitzero"`
	AllowRun    bool       `json:"allow_run,omitempty"` // whether admins may run programs on clients
	Created     time.Time  `json:"created"`
	Revision    uint64     `json:"revision"`
}

// BootPolicy holds for all clients of a site. Zero times mean the agent's defaults.
type BootPolicy struct {
	KernelParameters string   `json:"kernel_parameters,omitempty"`
	Shell            bool     `json:"shell,omitempty"`
	Initrd           string   `json:"initrd,omitempty"` // full or school; empty means full
	Boot             string   `json:"boot,omitempty"`   // IMAGE:CHANNEL; empty means the site's first image
	NBDTimeout       Duration `json:"nbd_timeout,omitempty"`
	DeadTimeout      Duration `json:"dead_timeout,omitempty"`
}

// Check reports the first rule that the site breaks.
func (s *Site) Check(lib Library) error {
	if err := pki.CheckName(s.Name); err != nil {
		return invalid("site %v", err)
	}
	if err := checkText("description", s.Description); err != nil {
		return err
	}
	if len(s.Images) > MaxSiteImages {
		return invalid("site %s: %d images, at most %d are allowed", s.Name, len(s.Images), MaxSiteImages)
	}
	for i, ref := range s.Images {
		if ref == "" || slices.Contains(s.Images[:i], ref) {
			return invalid("site %s: image %q is empty or named twice", s.Name, ref)
		}
		if err := checkChannelBoot("site "+s.Name, ref, lib); err != nil {
			return err
		}
	}
	if err := s.Transfer.check("site " + s.Name); err != nil {
		return err
	}
	if err := s.LoginHost.check("site " + s.Name); err != nil {
		return err
	}
	return s.Boot.check("site "+s.Name, lib)
}

func (p *BootPolicy) check(what string, lib Library) error {
	if err := checkText(what+": kernel parameters", p.KernelParameters); err != nil {
		return err
	}
	if p.Initrd != "" && p.Initrd != "full" && p.Initrd != "school" {
		return invalid("%s: initrd %q: want full or school", what, p.Initrd)
	}
	for name, d := range map[string]Duration{"NBD timeout": p.NBDTimeout, "dead timeout": p.DeadTimeout} {
		if d < 0 || d > Duration(24*time.Hour) {
			return invalid("%s: %s %s: want 0 (default) to 24h", what, name, d)
		}
	}
	return checkChannelBoot(what+": boot", p.Boot, lib)
}

// CheckDelete tells whether a site may go, given how many things it still has.
func (s *Site) CheckDelete(subnets, satellites, clients int) error {
	if subnets+satellites+clients > 0 {
		return Errorf(ErrInUse, "site %s still has %d subnets, %d satellites and %d configured clients; delete them first", s.Name, subnets, satellites, clients)
	}
	return nil
}
