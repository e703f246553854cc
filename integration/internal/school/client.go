package school

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
)

// SatelliteInfo is what `ltspctl satellite list -o json` says of one, as far as tests look.
type SatelliteInfo struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	Versions []struct {
		Image        string `json:"image"`
		Number       uint64 `json:"number"`
		ID           string `json:"id"`
		State        string `json:"state"`
		BytesDone    uint64 `json:"bytes_done"`
		BytesTotal   uint64 `json:"bytes_total"`
		BytesFetched uint64 `json:"bytes_fetched"`
		Error        string `json:"error"`
	} `json:"versions"`
	Members []struct {
		Name     string   `json:"name"`
		State    string   `json:"state"`
		Versions []string `json:"versions"`
	} `json:"members"`
	Problems []string `json:"problems"`
}

// SatelliteInfo is what the controller knows of a satellite.
func (s *School) SatelliteInfo(ctx context.Context, name string) (*SatelliteInfo, error) {
	var all []SatelliteInfo
	if err := s.CtlJSON(ctx, &all, "satellite", "list"); err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("satellite %s is unknown to the controller", name)
}

// ClientInfo is what `ltspctl client list -o json` says of one, as far as tests look.
type ClientInfo struct {
	MAC    string `json:"mac"`
	Name   string `json:"name"`
	Report *struct {
		State     string   `json:"state"`
		Reasons   []string `json:"reasons"`
		Version   string   `json:"version"`
		Digest    string   `json:"digest"`
		Hostname  string   `json:"hostname"`
		Address   string   `json:"address"`
		Satellite string   `json:"satellite"`
		NBD       bool     `json:"nbd_connected"`
		Timeline  []struct {
			Name    string  `json:"name"`
			Seconds float64 `json:"seconds"`
		} `json:"timeline"`
	} `json:"report"`
}

// AwaitVerified waits until a satellite has version number of the image, and the boot loaders, verified.
func (s *School) AwaitVerified(ctx context.Context, satellite string, number uint64) error {
	return s.Await(ctx, fmt.Sprintf("%s has %s@%d verified", satellite, ImageName, number), func() error {
		info, err := s.SatelliteInfo(ctx, satellite)
		if err != nil {
			return err
		}
		return verified(*info, number)
	})
}

func verified(info SatelliteInfo, number uint64) error {
	have := map[string]bool{}
	for _, v := range info.Versions {
		if v.State == "verified" && (v.Image != ImageName || v.Number == number) {
			have[v.Image] = true
		}
	}
	if !have[ImageName] || !have["bootloaders"] {
		return fmt.Errorf("%s, versions %+v, problems %q", info.State, info.Versions, info.Problems)
	}
	return nil
}

// PC starts a virtual PC on the classroom LAN. Empty fields of m are filled: name, tap, MAC address.
func (s *School) PC(m testvm.Machine) (*testvm.VM, error) {
	s.pcs++
	if m.Name == "" {
		m.Name = fmt.Sprintf("pc%02d", s.pcs)
	}
	tap, err := s.LAN.Tap(fmt.Sprintf("vm%d", s.pcs))
	if err != nil {
		return nil, err
	}
	m.Tap, m.SkipBanner = tap, true
	if m.MAC == "" {
		m.MAC = fmt.Sprintf("52:54:00:67:00:%02x", 0x10+s.pcs)
	}
	if m.UUID == "" {
		m.UUID = fmt.Sprintf("67000000-0000-4000-8000-%012x", s.pcs)
	}
	if m.Fatal == nil {
		m.Fatal = regexp.MustCompile(`Kernel panic - not syncing|ltsp-agent: boot failed`)
	}
	return s.Rack.Start(s.life, m)
}

// AwaitHealthy waits until the controller knows the client as healthy.
func (s *School) AwaitHealthy(ctx context.Context, mac string) (*ClientInfo, error) {
	var found *ClientInfo
	err := s.Await(ctx, "client "+mac+" is healthy", func() error {
		c, err := s.Client(ctx, mac)
		if err != nil {
			return err
		}
		if c.Report == nil || c.Report.State != "healthy" {
			return fmt.Errorf("it is %+v", c.Report)
		}
		found = c
		return nil
	})
	return found, err
}

// Client is what the controller knows of a client.
func (s *School) Client(ctx context.Context, mac string) (*ClientInfo, error) {
	var all []ClientInfo
	if err := s.CtlJSON(ctx, &all, "client", "list"); err != nil {
		return nil, err
	}
	for i := range all {
		if strings.EqualFold(all[i].MAC, mac) {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("client %s is unknown to the controller", mac)
}

// AwaitHealthyWatching is AwaitHealthy that tells through log how far the PC has come.
func (s *School) AwaitHealthyWatching(ctx context.Context, vm *testvm.VM, mac string, log func(string, ...any)) (*ClientInfo, error) {
	stages := []struct{ pattern, say string }{
		{`iPXE`, "iPXE speaks"},
		{`LTSP Fleet: image`, "the boot script runs"},
		{`Linux version|Run /init|ltsp-agent:`, "the kernel runs"},
		{`ltsp-agent: healthy`, "the resident agent reports healthy"},
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan error, 1)
	go func() {
		for _, stage := range stages {
			m, err := vm.Expect(ctx, stage.pattern)
			if err != nil {
				cancel()
				watched <- err
				return
			}
			log("%s: %s (%.1f s after power-on)", mac, stage.say, m.At.Seconds())
		}
		watched <- nil
	}()
	client, err := s.AwaitHealthy(ctx, mac)
	if err != nil {
		cancel()
		return nil, errors.Join(<-watched, err)
	}
	return client, <-watched
}
