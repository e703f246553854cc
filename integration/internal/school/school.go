// Package school puts a whole fleet on one machine: a WAN with a controller and an admin's desk, a classroom LAN with satellites, and
// virtual PCs that netboot. It runs the built binaries from outside, as people do. The demo and the end-to-end tests use it.
package school

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
)

// Addresses of the lab.
const (
	ControllerAddr = "10.77.0.1"
	ControllerPort = "7400"
	Site           = "school1"
	Subnet         = "lab1"
	SubnetCIDR     = "192.168.67.0/24"
	ImageName      = "lab"
	Channel        = "stable"
)

// Config says where things are. All but Log are required.
type Config struct {
	Bin    string // directory of the four binaries
	Cache  string // where images are kept between runs
	Dir    string // working directory of this run: data, logs, captures
	Prefix string // of namespaces, see testnet.Config
	Log    func(format string, args ...any)
}

// School is the fleet. Its methods are not safe for concurrent use, except those of Lab, Rack and Ctl.
type School struct {
	Config
	Lab      *testnet.Lab
	Rack     *testvm.Rack
	WAN, LAN *testnet.Bridge
	Uplink   *testnet.Relay // of the first satellite; nil without Opening.Line

	life       context.Context // of daemons and machines: New's, because they outlive the call that starts them
	controller *testnet.Host
	desk       *testnet.Host
	daemons    map[string]*testnet.Process
	satellites map[string]*testnet.Host
	serveFlags map[string][]string // of ltsp-satellite serve, by satellite
	packages   []string            // of the image, besides those that it has anyway
	pcs        int
	took       []took
}

// New makes the networks and the controller's host, and starts nothing. Close ends everything, and so does the end of ctx.
func New(ctx context.Context, c Config) (*School, error) {
	if c.Log == nil {
		c.Log = func(string, ...any) {}
	}
	missing := append(testnet.Missing(), testvm.Missing()...)
	if len(missing) > 0 {
		return nil, fmt.Errorf("packages are missing; run: apt-get install %s", strings.Join(missing, " "))
	}
	for _, dir := range []string{c.Dir, c.Cache} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	s := &School{Config: c, life: ctx, daemons: map[string]*testnet.Process{}, satellites: map[string]*testnet.Host{}, serveFlags: map[string][]string{}}
	if err := s.networks(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *School) networks(ctx context.Context) (err error) {
	if s.Lab, err = testnet.New(ctx, testnet.Config{Prefix: s.Prefix}); err != nil {
		return err
	}
	if s.Rack, err = testvm.New(ctx, testvm.Config{Dir: s.Dir, Log: s.Log}); err != nil {
		return err
	}
	if s.WAN, err = s.Lab.Bridge("wan"); err != nil {
		return err
	}
	if s.LAN, err = s.Lab.Bridge("lan"); err != nil {
		return err
	}
	if s.controller, err = s.Lab.Host("ctrl", s.WAN.At(ControllerAddr+"/24")); err != nil {
		return err
	}
	s.desk, err = s.Lab.Host("desk", s.WAN.At("10.77.0.2/24"))
	return err
}

// Close ends machines, daemons and networks.
func (s *School) Close() error {
	var errs []error
	if s.Rack != nil {
		errs = append(errs, s.Rack.Close())
	}
	for _, p := range s.daemons {
		errs = append(errs, p.Kill9())
	}
	if s.Lab != nil {
		errs = append(errs, s.Lab.Close())
	}
	return errors.Join(errs...)
}

func (s *School) path(parts ...string) string {
	return filepath.Join(append([]string{s.Dir}, parts...)...)
}

// Contexts is the contexts file of the admin at the desk.
func (s *School) Contexts() string { return s.path("admin.yaml") }

// InitController makes the controller's CA and the admin's credential.
func (s *School) InitController(ctx context.Context) error {
	_, err := s.run(ctx, s.controller, "ltsp-controller", "init", "--data-dir", s.path("controller"),
		"--address", ControllerAddr+":"+ControllerPort, "--admin-context", s.Contexts())
	return err
}

// StartController starts the controller and waits until it answers.
func (s *School) StartController(ctx context.Context) error {
	err := s.start("controller", s.controller, "ltsp-controller", "serve", "--data-dir", s.path("controller"), "--listen", ":"+ControllerPort)
	if err != nil {
		return err
	}
	return s.Await(ctx, "the controller answers", func() error {
		_, err := s.Ctl(ctx, "version")
		return err
	})
}

// Satellite is the host of a satellite.
func (s *School) Satellite(name string) *testnet.Host { return s.satellites[name] }

// Daemon is a running controller ("controller") or satellite (its name), or nil.
func (s *School) Daemon(name string) *testnet.Process { return s.daemons[name] }

// Kill9 ends a daemon as a power cut would.
func (s *School) Kill9(name string) error {
	p := s.daemons[name]
	if p == nil {
		return fmt.Errorf("%s does not run", name)
	}
	delete(s.daemons, name)
	return p.Kill9()
}

// Stop ends a daemon in the usual way.
func (s *School) Stop(ctx context.Context, name string) error {
	p := s.daemons[name]
	if p == nil {
		return fmt.Errorf("%s does not run", name)
	}
	delete(s.daemons, name)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return p.Stop(ctx)
}

func (s *School) start(name string, host *testnet.Host, program string, args ...string) error {
	if s.daemons[name] != nil {
		return fmt.Errorf("%s runs already", name)
	}
	p, err := host.Start(s.life, testnet.Proc{Path: filepath.Join(s.Bin, program), Args: args, LogFile: s.path(name + ".log")})
	if err != nil {
		return err
	}
	s.daemons[name] = p
	return nil
}

// Ctl runs ltspctl at the admin's desk and returns what it printed.
func (s *School) Ctl(ctx context.Context, args ...string) (string, error) {
	return s.run(ctx, s.desk, "ltspctl", append([]string{"--contexts", s.Contexts()}, args...)...)
}

// CtlJSON runs ltspctl with -o json and decodes what it printed into to.
func (s *School) CtlJSON(ctx context.Context, to any, args ...string) error {
	out, err := s.Ctl(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), to); err != nil {
		return fmt.Errorf("ltspctl %s printed no JSON: %w", strings.Join(args, " "), err)
	}
	return nil
}

// run runs a program of the fleet on a host and returns its standard output; standard error is in the error, and in the log.
func (s *School) run(ctx context.Context, host *testnet.Host, program string, args ...string) (string, error) {
	return s.Run(ctx, host, filepath.Join(s.Bin, program), args...)
}

// Run runs any program on a host until it ends and returns its standard output.
func (s *School) Run(ctx context.Context, host *testnet.Host, program string, args ...string) (string, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer read.Close()
	errFile, err := os.CreateTemp(s.Dir, "stderr-*")
	if err != nil {
		return "", errors.Join(err, write.Close())
	}
	defer os.Remove(errFile.Name())
	defer errFile.Close()
	p, err := host.Start(ctx, testnet.Proc{Path: program, Args: args, Stdout: write, LogFile: errFile.Name()})
	write.Close()
	if err != nil {
		return "", err
	}
	out, readErr := io.ReadAll(read)
	if err := p.Wait(ctx); err != nil {
		text, _ := os.ReadFile(errFile.Name())
		_ = p.Kill9()
		return string(out), fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, strings.TrimSpace(string(text)))
	}
	return string(out), readErr
}

// pollEvery is how often Await looks.
const pollEvery = 200 * time.Millisecond

// Await calls check until it returns nil. When ctx ends, the error tells what was awaited and why it was not so yet.
func (s *School) Await(ctx context.Context, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for: %s: %w (%w)", what, err, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
