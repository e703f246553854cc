package school

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Opening is how far Open goes and with what.
type Opening struct {
	SubnetFlags []string // of `ltspctl subnet create`; nil: authoritative with a range
	Satellite   string   // name of the first satellite; empty: sat1
	Line        bool     // the satellite reaches its controller through School.Uplink
	People      bool     // the image has what users need who log in by ssh and run remote applications
	Packages    []string // of the distribution, which the image has besides
}

// took is how long a step of Open lasted.
type took struct {
	step string
	wall time.Duration
}

// Open brings the school to where PCs can boot: controller, site, subnet, one satellite, the image published and verified.
func (s *School) Open(ctx context.Context, o Opening) error {
	if o.SubnetFlags == nil {
		o.SubnetFlags = []string{"--range", "192.168.67.20-192.168.67.250", "--gateway", "192.168.67.1"}
	}
	if o.Satellite == "" {
		o.Satellite = "sat1"
	}
	if s.packages = o.Packages; o.People {
		s.packages = append(slices.Clone(peoplePackages), o.Packages...)
	}
	image, err := s.Image(ctx)
	if err != nil {
		return fmt.Errorf("client image: %w", err)
	}
	steps := []struct {
		say string
		do  func() error
	}{
		{"controller: making its CA and the first admin", func() error { return s.InitController(ctx) }},
		{"controller: starting", func() error { return s.StartController(ctx) }},
		{"site " + Site + ": creating it with image " + ImageName + ":" + Channel, func() error {
			return s.Do(ctx, "site", "create", Site, "--image", ImageName+":"+Channel, "--kernel-parameters", "console=ttyS0 mitigations=off")
		}},
		{"subnet " + Subnet + ": " + SubnetCIDR, func() error {
			return s.Do(ctx, append([]string{"subnet", "create", Subnet, "--site", Site, "--cidr", SubnetCIDR}, o.SubnetFlags...)...)
		}},
		{"satellite " + o.Satellite + ": joining by a token", func() error { return s.joinFirst(ctx, o) }},
		{"satellite " + o.Satellite + ": starting", func() error { return s.StartSatellite(ctx, o.Satellite) }},
		{"image " + ImageName + ": publishing", func() error { return s.Publish(ctx, image) }},
		{"satellite " + o.Satellite + ": waiting until it has the image verified", func() error { return s.AwaitVerified(ctx, o.Satellite, 1) }},
	}
	for _, step := range steps {
		s.Log("%s", step.say)
		began := time.Now()
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.say, err)
		}
		s.took = append(s.took, took{step.say, time.Since(began)})
	}
	return nil
}

func (s *School) joinFirst(ctx context.Context, o Opening) (err error) {
	j := Joining{Name: o.Satellite, WAN: "10.77.0.11/24", LAN: "192.168.67.1/24"}
	if o.Line {
		if s.Uplink, j.Controller, err = s.Line(ctx, "line", "10.77.0.3/24", 0); err != nil {
			return err
		}
	}
	return s.Join(ctx, j)
}

// Do runs ltspctl and drops what it printed.
func (s *School) Do(ctx context.Context, args ...string) error {
	_, err := s.Ctl(ctx, args...)
	return err
}
