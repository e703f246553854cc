package initrd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/enforce"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/policy"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/uplink"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const (
	// fetchPatience bounds the wait for a satellite that gives the policy. A PC without its policy is worth more than one that waits.
	fetchPatience = 20 * time.Second
	// policyLimit is for all hooks and scripts; each of them has a limit of its own.
	policyLimit = 15 * time.Minute
)

const advicePolicy = "tell the administrator: the policy of this PC has to be corrected (ltspctl policy lint, ltspctl policy undo); then restart the PC"

// policy brings the client's policy and makes it that of the new root. Without one the boot goes on by LTSP's defaults, and the resident agent tries
// again; with one that cannot be carried out it stops, as LTSP's does.
func (b *boot) policy(ctx context.Context) error {
	state, err := b.fetchPolicy(ctx)
	if err != nil {
		b.noPolicy = "booted without a policy: " + err.Error()
		b.log.Warn("no policy, the boot goes on without", "err", err)
	}
	leave, err := enterRoot(newRoot, switchMounts)
	if err != nil {
		return err
	}
	result, err := enforce.Boot(ctx, enforce.Config{Root: newRoot, Facts: b.facts(), System: kernel{}, Between: b.imageToRAM, Log: b.log}, state)
	if err := errors.Join(err, leave()); err != nil {
		return b.blameVerity(err)
	}
	if name := result.Final["HOSTNAME"]; agentproto.IsHostname(name) {
		b.hostname = name
	}
	return nil
}

// fetchPolicy returns the state in force from now on.
func (b *boot) fetchPolicy(ctx context.Context) (*policy.State, error) {
	cfg, err := uplink.TLSConfig(b.cfg.TrustAnchor, b.cfg.Site)
	if err != nil {
		return nil, err
	}
	store, err := policy.Open(filepath.Join(rundir.Dir, rundir.Policy))
	if err != nil {
		return nil, err
	}
	defer store.Close()
	open := func(ctx context.Context, sat agentproto.Satellite) (policy.Stream, error) {
		f, err := uplink.DialFetch(ctx, sat, cfg, b.hello())
		if err != nil {
			return nil, err // not f: a nil *Fetcher is no nil Stream
		}
		return f, nil
	}
	sum, err := store.FetchPatiently(ctx, fetchPatience, b.cfg.Satellites, open, func(err error) bool { return errors.Is(err, uplink.ErrRefused) })
	if err != nil {
		return nil, err
	}
	if err := store.Activate(sum); err != nil {
		return nil, err
	}
	b.log.Info("policy fetched", "state", sum)
	return store.Load(sum)
}

// facts are what the applets are told of this PC.
func (b *boot) facts() step.Facts {
	f := step.Facts{
		Device: b.nic.Name, MAC: b.nic.MAC, Addr: b.addr, Gateway: b.gateway, DNS: b.dns, Domain: b.domain, DHCPServer: b.dhcpServer, Lease: b.lease,
		CommandLine: b.commandLine,
	}
	for _, name := range b.names {
		name, _, _ = strings.Cut(name, ".")
		if agentproto.IsHostname(name) {
			f.Hostname = name
			break
		}
	}
	return f
}

// enterRoot binds directories into a root, for the scripts that run in it. What they mount there stays mounted in the directories when leave has taken
// them away again.
func enterRoot(root string, dirs []string) (leave func() error, err error) {
	var done []string
	leave = func() error {
		var list []error
		for _, dir := range done {
			list = append(list, detach(root, dir))
		}
		return errors.Join(list...)
	}
	for _, dir := range dirs {
		inside := filepath.Join(root, dir)
		if err := os.MkdirAll(inside, 0o755); err != nil {
			return nil, errors.Join(err, leave())
		}
		// Peers: a mount below one of them is a mount below the other.
		if err := unix.Mount("", dir, "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
			return nil, errors.Join(fmt.Errorf("share %s: %w", dir, err), leave())
		}
		if err := unix.Mount(dir, inside, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return nil, errors.Join(fmt.Errorf("mount %s: %w", inside, err), leave())
		}
		done = append(done, dir)
	}
	return leave, nil
}

// detach takes a directory away from a root, and the mounts below it from there only.
func detach(root, dir string) error {
	inside := filepath.Join(root, dir)
	for _, d := range []string{inside, dir} {
		if err := unix.Mount("", d, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("make %s private: %w", d, err)
		}
	}
	if err := unix.Unmount(inside, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", inside, err)
	}
	return nil
}

// kernel is the System of a root whose init has not started.
type kernel struct{ step.None }

// SetHostname sets the kernel's name of this PC.
func (kernel) SetHostname(name string) error { return unix.Sethostname([]byte(name)) }

// wantsShell tells whether policy asks for a shell when the boot has failed.
func (b *boot) wantsShell(f *failure) bool {
	if v, ok := b.args.Get("ltsp.debug-shell"); ok && v == "1" {
		return true
	}
	var stop *enforce.StopError
	return errors.As(f.err, &stop) && stop.Shell
}
