package school

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// Joining describes a satellite.
type Joining struct {
	Name     string
	WAN, LAN string          // addresses with prefix length
	Bridge   *testnet.Bridge // its classroom; nil: LAN
	Site     string          // empty: Site
	// Controller is the address that the satellite knows; empty: the controller's own. A Line gives another.
	Controller string
	Flags      []string // of `ltsp-satellite serve`
}

// AddSatellite makes a satellite's host with a WAN and a LAN address, and enrols it.
func (s *School) AddSatellite(ctx context.Context, name, wanAddr, lanAddr string) error {
	return s.Join(ctx, Joining{Name: name, WAN: wanAddr, LAN: lanAddr})
}

// Join makes a satellite's host and enrols it with a new token. Its data lies in DataDir.
func (s *School) Join(ctx context.Context, j Joining) error {
	if j.Site == "" {
		j.Site = Site
	}
	if err := s.SatelliteHost(j); err != nil {
		return err
	}
	token, err := s.Token(ctx, j.Site)
	if err != nil {
		return err
	}
	return s.Enrol(ctx, j, token)
}

// SatelliteHost makes the host of a satellite without enrolling it.
func (s *School) SatelliteHost(j Joining) error {
	if j.Bridge == nil {
		j.Bridge = s.LAN
	}
	host, err := s.Lab.Host(j.Name, s.WAN.At(j.WAN), j.Bridge.At(j.LAN))
	if err != nil {
		return err
	}
	s.satellites[j.Name], s.serveFlags[j.Name] = host, j.Flags
	return nil
}

// Token makes a join token for a site.
func (s *School) Token(ctx context.Context, site string) (string, error) {
	token, err := s.Ctl(ctx, "token", "create", "--site", site)
	return strings.TrimSpace(token), err
}

// Enrol runs `ltsp-satellite join` on a host that SatelliteHost made.
func (s *School) Enrol(ctx context.Context, j Joining, token string) error {
	if j.Controller == "" {
		j.Controller = ControllerAddr + ":" + ControllerPort
	}
	_, err := s.run(ctx, s.satellites[j.Name], "ltsp-satellite", "join", "--data-dir", s.DataDir(j.Name), "--controller", j.Controller,
		"--token", token, "--name", j.Name)
	return err
}

// DataDir is where a daemon keeps its data: "controller" or a satellite's name.
func (s *School) DataDir(name string) string { return s.path(name) }

// LogFile is the log of a daemon: "controller" or a satellite's name.
func (s *School) LogFile(name string) string { return s.path(name + ".log") }

// StartSatellite starts an enrolled satellite, which runs until it is ended or the school is closed.
func (s *School) StartSatellite(ctx context.Context, name string) error {
	args := append([]string{"serve", "--data-dir", s.DataDir(name)}, s.serveFlags[name]...)
	return s.start(name, s.satellites[name], "ltsp-satellite", args...)
}

// Line makes a slow line on the WAN: a host with the address wanAddr (with prefix length) where a relay passes connections on to the
// controller. It returns the address to use in the controller's stead.
func (s *School) Line(ctx context.Context, name, wanAddr string, bytesPerSecond int64) (*testnet.Relay, string, error) {
	prefix, err := netip.ParsePrefix(wanAddr)
	if err != nil {
		return nil, "", err
	}
	host, err := s.Lab.Host(name, s.WAN.At(wanAddr))
	if err != nil {
		return nil, "", err
	}
	address := prefix.Addr().String() + ":" + ControllerPort
	relay, err := testnet.NewRelay(ctx, testnet.RelayConfig{From: host, Listen: address, To: host,
		Target: ControllerAddr + ":" + ControllerPort, BytesPerSecond: bytesPerSecond, Log: s.Log})
	return relay, address, err
}

// ExitCode is the exit status in an error of Run, Ctl and their like: 0 for nil, -1 if the program did not end by itself.
func ExitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}
