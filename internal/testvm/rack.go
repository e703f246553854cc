// Package testvm boots virtual machines under QEMU and talks to them over the serial console. The VM tests and the demo use
// it; it does not import package testing and nothing of the product.
//
//	rack, err := testvm.New(ctx, testvm.Config{Dir: "logs", Log: log.Printf})
//	defer rack.Close()
//	vm, err := rack.Start(ctx, testvm.Machine{Name: "pc1", Firmware: testvm.UEFI, Tap: tap})
//	match, err := vm.Expect(ctx, `login:`)
//	err = vm.Send("root\n")
package testvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet/proc"
)

const (
	qemuProgram = "qemu-system-x86_64"
	firmwareDir = "/usr/share/OVMF"
)

// Config describes a rack.
type Config struct {
	// Dir receives console logs and QEMU's messages, NAME.console, NAME.console.timed and NAME.qemu. It must exist and stays.
	Dir string
	// Accel is "tcg" or "kvm"; empty: the environment variable LTSP_TEST_ACCEL, and without it a bounded probe of KVM.
	Accel string
	// SocketDir receives the console sockets, NAME.sock. It must exist and its path be short; empty: a temporary directory.
	SocketDir string
	// Log receives what a person watching would like to know; nil discards it.
	Log func(format string, args ...any)
}

// Rack holds virtual machines that are ended together. Methods are safe for concurrent use.
type Rack struct {
	config  Config
	accel   string
	runDir  string // firmware variables
	spawner *proc.Spawner

	mu     sync.Mutex
	closed bool
	names  map[string]bool
	vms    []*VM
}

// Missing returns the Debian packages that the rack needs and this machine lacks, nil when there are none.
func Missing() []string {
	var missing []string
	if _, err := exec.LookPath(qemuProgram); err != nil {
		missing = append(missing, "qemu-system-x86")
	}
	for _, need := range []struct{ path, pkg string }{
		{"/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu"},
		{filepath.Join(firmwareDir, "OVMF_CODE_4M.fd"), "ovmf"},
	} {
		if _, err := os.Stat(need.path); err != nil {
			missing = append(missing, need.pkg)
		}
	}
	return missing
}

// New makes an empty rack. Choosing the accelerator may take a few seconds. The caller must Close it.
func New(ctx context.Context, config Config) (*Rack, error) {
	if missing := Missing(); missing != nil {
		return nil, fmt.Errorf("virtual machines need packages that are not installed: run apt-get install %s", strings.Join(missing, " "))
	}
	if info, err := os.Stat(config.Dir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("directory for console logs %q: %w", config.Dir, errors.Join(err, os.ErrInvalid))
	}
	if config.Log == nil {
		config.Log = func(string, ...any) {}
	}
	runDir, err := os.MkdirTemp("", "testvm-")
	if err != nil {
		return nil, fmt.Errorf("virtual machines: %w", err)
	}
	if config.SocketDir == "" {
		config.SocketDir = runDir
	}
	r := &Rack{config: config, runDir: runDir, spawner: proc.NewSpawner(), names: map[string]bool{}}
	if r.accel, err = r.chooseAccel(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	config.Log("virtual machines run under %s", r.accel)
	return r, nil
}

// Accel is "kvm" or "tcg".
func (r *Rack) Accel() string { return r.accel }

// Close kills all machines as a power cut would and removes what is not a log. It may be called twice.
func (r *Rack) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	vms := r.vms
	r.mu.Unlock()
	var errs []error
	for _, vm := range vms {
		errs = append(errs, vm.Kill())
	}
	r.spawner.Close()
	errs = append(errs, os.RemoveAll(r.runDir))
	return errors.Join(errs...)
}

// VMs returns the machines started so far, ended ones too, for a failure report.
func (r *Rack) VMs() []*VM {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.vms)
}

// Report describes all machines with the last lines of their consoles, for a failure message.
func (r *Rack) Report(lines int) string {
	var report strings.Builder
	for _, vm := range r.VMs() {
		state := "running"
		select {
		case <-vm.Done():
			state = "off"
		default:
		}
		fmt.Fprintf(&report, "--- %s (%s, %s, %.1f s CPU), console in %s\n%s\n",
			vm.Machine.Name, vm.Machine.Firmware, state, vm.CPU().Seconds(), vm.Machine.ConsoleLog, vm.Tail(lines))
	}
	return report.String()
}

// reserve takes a machine name; it is free again when that machine has ended.
func (r *Rack) reserve(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("machine %s: the rack is closed", name)
	}
	if r.names[name] {
		return fmt.Errorf("machine %s: one with this name is running", name)
	}
	r.names[name] = true
	return nil
}

func (r *Rack) release(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.names, name)
}

// Start switches a machine on. It runs until it powers itself off, Kill, the end of ctx, Close, or the end of this process.
func (r *Rack) Start(ctx context.Context, machine Machine) (*VM, error) {
	machine, err := machine.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := r.reserve(machine.Name); err != nil {
		return nil, err
	}
	vm, err := r.start(ctx, machine)
	if err != nil {
		r.release(machine.Name)
		return nil, fmt.Errorf("machine %s: %w", machine.Name, err)
	}
	r.mu.Lock()
	r.vms = append(r.vms, vm)
	closed := r.closed
	r.mu.Unlock()
	if closed {
		return nil, errors.Join(fmt.Errorf("machine %s: the rack is closed", machine.Name), vm.Kill())
	}
	r.config.Log("%s: switched on (%s, %d MiB, pid %d), console in %s", machine.Name, machine.Firmware, machine.MemoryMiB, vm.process.Pid, vm.Machine.ConsoleLog)
	return vm, nil
}
