package testvm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet/proc"
)

const (
	accelVariable = "LTSP_TEST_ACCEL"
	kvmProbe      = 3 * time.Second // SeaBIOS needs a tenth of it under KVM
)

// chooseAccel decides between KVM and TCG: by configuration, else by environment, else by whether KVM really works.
func (r *Rack) chooseAccel(ctx context.Context) (string, error) {
	choice, source := r.config.Accel, "accelerator"
	if choice == "" {
		choice, source = os.Getenv(accelVariable), accelVariable
	}
	switch choice {
	case "tcg", "kvm":
		return choice, nil
	case "":
	default:
		return "", fmt.Errorf("%s is %q: want tcg or kvm", source, choice)
	}
	if r.kvmWorks(ctx) {
		return "kvm", nil
	}
	return "tcg", nil
}

// kvmWorks runs an empty machine under KVM and waits for the BIOS to speak. That /dev/kvm exists and opens proves nothing:
// inside some virtual machines a guest then never executes an instruction.
func (r *Rack) kvmWorks(ctx context.Context) bool {
	if runtime.GOARCH != "amd64" {
		return false
	}
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !hasVirtualisation(cpuinfo) {
		return false
	}
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	device.Close()
	return r.biosSpeaks(ctx)
}

func (r *Rack) biosSpeaks(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, kvmProbe)
	defer cancel()
	read, write, err := os.Pipe()
	if err != nil {
		return false
	}
	defer read.Close()
	process, err := r.spawner.Start(ctx, proc.Spec{Path: qemuProgram, Stdout: write, Args: []string{
		"-M", "pc", "-accel", "kvm", "-cpu", "host", "-m", "64", "-nographic", "-nodefaults", "-monitor", "none", "-nic", "none",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
	}})
	write.Close()
	if err != nil {
		return false
	}
	deadline, _ := ctx.Deadline()
	_ = read.SetReadDeadline(deadline)
	var said []byte
	chunk := make([]byte, 512)
	for !bytes.Contains(said, []byte("SeaBIOS")) {
		n, err := read.Read(chunk)
		said = append(said, chunk[:n]...)
		if err != nil {
			break
		}
	}
	// A process that hangs inside the kernel cannot be reaped; it is left behind then, and KVM does not work.
	return process.Kill9() == nil && bytes.Contains(said, []byte("SeaBIOS"))
}

// hasVirtualisation looks for the processor flag of Intel or AMD in /proc/cpuinfo.
func hasVirtualisation(cpuinfo []byte) bool {
	for line := range bytes.Lines(cpuinfo) {
		if !bytes.HasPrefix(line, []byte("flags")) {
			continue
		}
		for flag := range bytes.FieldsSeq(line) {
			if string(flag) == "vmx" || string(flag) == "svm" {
				return true
			}
		}
		return false // all processors have the same flags
	}
	return false
}
