//go:build component

package testvm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// patience is far more than a quiet machine needs, because this one may be shared.
const patience = 3 * time.Minute

func newRack(t *testing.T) *Rack {
	t.Helper()
	r, err := New(t.Context(), Config{Dir: t.TempDir(), Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func newTap(t *testing.T, name string) *testnet.Tap {
	t.Helper()
	lab, err := testnet.New(t.Context(), testnet.Config{Prefix: "tv", Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	lan, err := lab.Bridge("lan")
	if err != nil {
		t.Fatal(err)
	}
	tap, err := lan.Tap(name)
	if err != nil {
		t.Fatal(err)
	}
	return tap
}

func start(t *testing.T, r *Rack, m Machine) *VM {
	t.Helper()
	vm, err := r.Start(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func expect(t *testing.T, vm *VM, pattern string) Match {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	match, err := vm.Expect(ctx, pattern)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%q after %v, %v CPU", match.Text, match.At.Round(time.Millisecond), vm.CPU())
	return match
}

func TestFirmwareBanners(t *testing.T) {
	tests := []struct {
		name     string
		machine  Machine
		patterns []string
	}{
		{"bios", Machine{Firmware: BIOS, SkipBanner: true}, []string{`SeaBIOS \(version`, `iPXE \d\S+ -- Open Source`, `net0: 52:54:00:67:00:10`, `Configuring \(net0`}},
		{"bios e1000", Machine{Firmware: BIOS, NIC: "e1000"}, []string{`SeaBIOS`, `iPXE \d`, `net0: 52:54:00:67:00:10 using 82540em`}},
		{"uefi", Machine{Firmware: UEFI}, []string{`>>Start PXE over IPv4`}},
		{"uefi http", Machine{Firmware: UEFIHTTP}, []string{`>>Start HTTP Boot over IPv4`}},
		{"secure boot", Machine{Firmware: UEFI, SecureBoot: true}, []string{`>>Start PXE over IPv4`}},
	}
	r := newRack(t)
	tap := newTap(t, "vm0")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := test.machine
			m.Name, m.Tap, m.MAC = strings.ReplaceAll(test.name, " ", "-"), tap, "52:54:00:67:00:10"
			vm := start(t, r, m)
			for _, pattern := range test.patterns {
				expect(t, vm, pattern)
			}
			if err := vm.Kill(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPowerAndErrors(t *testing.T) {
	r := newRack(t)
	vm := start(t, r, Machine{Name: "empty"})
	expect(t, vm, `SeaBIOS`)
	if _, err := r.Start(t.Context(), Machine{Name: "empty"}); err == nil {
		t.Error("two running machines have one name")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := vm.Expect(ctx, `never printed`)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "SeaBIOS") {
		t.Errorf("the error of a missed pattern lacks the cause or the console: %v", err)
	}
	if report := r.Report(100); !strings.Contains(report, "empty (BIOS, running") || !strings.Contains(report, "SeaBIOS") {
		t.Errorf("report %q", report)
	}
	if err := vm.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Expect(t.Context(), `never printed`); !errors.Is(err, ErrEnded) {
		t.Errorf("after Kill: %v", err)
	}
	if vm.CPU() <= 0 {
		t.Error("no CPU time counted")
	}
	if raw, err := os.ReadFile(vm.Machine.ConsoleLog); err != nil || !bytes.Contains(raw, []byte("SeaBIOS")) {
		t.Errorf("console log: %d bytes, %v", len(raw), err)
	}
	again := start(t, r, Machine{Name: "empty"})
	expect(t, again, `SeaBIOS`)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-again.Done():
	default:
		t.Error("a machine survived Close")
	}
	if _, err := r.Start(t.Context(), Machine{Name: "late"}); err == nil {
		t.Error("a closed rack starts machines")
	}
}

func TestBadArgumentsAreReported(t *testing.T) {
	r := newRack(t)
	vm := start(t, r, Machine{Name: "bad", ExtraArgs: []string{"-no-such-option"}})
	if _, err := vm.Expect(t.Context(), `SeaBIOS`); !errors.Is(err, ErrEnded) {
		t.Errorf("Expect: %v", err)
	}
	if err := vm.Wait(t.Context()); err == nil {
		t.Error("Wait reports success")
	}
	if log, _ := os.ReadFile(filepath.Join(r.config.Dir, "bad.qemu")); !strings.Contains(string(log), "no-such-option") {
		t.Errorf("QEMU's message is lost: %q", log)
	}
}

func TestConsoleSocket(t *testing.T) {
	r := newRack(t)
	vm := start(t, r, Machine{Name: "talk"})
	expect(t, vm, `SeaBIOS`)
	conn, err := net.Dial("unix", vm.ConsoleSocket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// What was printed before is shown to a newcomer.
	var shown []byte
	chunk := make([]byte, 1024)
	for !bytes.Contains(shown, []byte("SeaBIOS")) {
		n, err := conn.Read(chunk)
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown, chunk[:n]...)
	}
	if err := vm.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the connection does not end with the machine: %v", err)
	}
}

// TestKVMProbeEnds checks that the probe comes to an end where KVM is broken, and agrees with the choice made.
func TestKVMProbeEnds(t *testing.T) {
	r := newRack(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	speaks := r.biosSpeaks(ctx)
	if ctx.Err() != nil {
		t.Fatal("the probe has no end of its own")
	}
	if os.Getenv(accelVariable) == "" && r.Accel() == "kvm" && !speaks {
		t.Error("KVM was chosen and does not work")
	}
}
