//go:build component

package bootfiles

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/cpio"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testimage"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
)

// patience is far more than a quiet machine needs, because this one may be shared.
const patience = 4 * time.Minute

// bootSet is what a version has for a test machine; the initrd holds a filler whose hash the machine's init prints.
type bootSet struct {
	kernel, initrd []byte
	filler         [32]byte
}

func newBootSet(t *testing.T) bootSet {
	t.Helper()
	kernel, err := testimage.Kernel(t.Context(), testimage.Config{Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(kernel.Image)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "init")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, "./testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	code, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	filler := make([]byte, 3<<20+13)
	_, _ = rand.NewChaCha8([32]byte{}).Read(filler) // never fails
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	for _, step := range []error{w.Dir("dev", 0o755), w.CharDevice("dev/console", 0o600, 5, 1), w.File("init", 0o755, code), w.File("filler", 0o644, filler), w.Close()} {
		if step != nil {
			t.Fatal(step)
		}
	}
	return bootSet{image, archive.Bytes(), sha256.Sum256(filler)}
}

// dhcp starts dnsmasq on a host; boot are its lines for boot files.
func dhcp(t *testing.T, lab *testnet.Lab, lan *testnet.Bridge, boot ...string) {
	t.Helper()
	host, err := lab.Host("dhcp", lan.At("192.168.67.3/24", "fd67::3/64"))
	if err != nil {
		t.Fatal(err)
	}
	args := []string{
		"--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--port=0", "--no-ping", "--user=root", "--interface=lan", "--bind-interfaces",
		"--dhcp-range=192.168.67.20,192.168.67.50,1h", "--dhcp-leasefile=" + filepath.Join(t.TempDir(), "leases"), "--dhcp-option=3,192.168.67.254",
		"--dhcp-option=6,192.168.67.3", "--enable-ra", "--ra-param=lan,0,0", "--dhcp-range=fd67::,ra-only", "--dhcp-option=encap:175,176,1b",
		"--dhcp-userclass=set:ipxe,iPXE",
	}
	log := filepath.Join(t.TempDir(), "dnsmasq")
	if _, err := host.Start(t.Context(), testnet.Proc{Path: "dnsmasq", Args: append(args, boot...), LogFile: log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("dnsmasq:\n%s", text)
		}
	})
}

// pc starts a machine in the lab.
func pc(t *testing.T, lan *testnet.Bridge, firmware testvm.Firmware) *testvm.VM {
	t.Helper()
	rack, err := testvm.New(t.Context(), testvm.Config{Dir: t.TempDir(), Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(rack.Report(60))
		}
		if err := rack.Close(); err != nil {
			t.Error(err)
		}
	})
	tap, err := lan.Tap("vm0")
	if err != nil {
		t.Fatal(err)
	}
	vm, err := rack.Start(t.Context(), testvm.Machine{
		Name: "pc01", Firmware: firmware, Tap: tap, MAC: pc01, UUID: "67000000-0000-4000-8000-000000000010", SkipBanner: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func expect(t *testing.T, vm *testvm.VM, pattern string) testvm.Match {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := vm.Expect(ctx, pattern)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.200q after %v, %v CPU", m.Text, m.At.Round(time.Millisecond), vm.CPU())
	return m
}

// booted checks what the machine's init prints: the kernel's command line, the boot configuration, the initrd.
func booted(t *testing.T, vm *testvm.VM, set bootSet, server string) {
	t.Helper()
	line := expect(t, vm, `INIT CMDLINE ([^\n]*)\n`).Groups[0]
	for _, want := range []string{
		"initrd=client.img initrd=initrd.img ip=192.168.67.", ":" + server + ":192.168.67.254:255.255.255.0:pc01 ", " BOOTIF=01-52-54-00-67-00-10 ",
		" ltsp.dns=192.168.67.3 ", " ltsp.dhcp=192.168.67.3 ", " console=ttyS0 panic=30",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("command line %q lacks %q", line, want)
		}
	}
	text := expect(t, vm, `INIT CONFIG (\{.*\})\n`).Groups[0]
	b, err := agentproto.ParseBootConfig([]byte(strings.ReplaceAll(text, "\n", "")))
	if err != nil {
		t.Fatalf("boot configuration %q: %v", text, err)
	}
	if b.Hostname != "pc01" || b.Number != 7 || len(b.Satellites) != 2 {
		t.Errorf("boot configuration %+v", b)
	}
	if got := expect(t, vm, `INIT FILLER ([0-9a-f]{64})`).Groups[0]; got != fmt.Sprintf("%x", set.filler) {
		t.Errorf("the initrd came over damaged: %s, want %x", got, set.filler)
	}
}

// TestIPXERecovers walks a PC through everything that can be wrong at its satellites: nothing there yet, an initrd that none can deliver, then one that
// only one of them has.
func TestIPXERecovers(t *testing.T) {
	set := newBootSet(t)
	lab, lan := newNet(t)
	a1 := newBox(t, lab, lan, "a1", "192.168.67.1/24")
	a2 := newBox(t, lab, lan, "a2", "192.168.67.2/24")
	dhcp(t, lab, lan, "--dhcp-boot=tag:ipxe,http://192.168.67.1/boot.ipxe")
	vm := pc(t, lan, testvm.BIOS)
	expect(t, vm, `Nothing to boot yet: image lab is not ready at this satellite yet\.\s+Version 7: 312 of 745 MB are here \(41 %\)`)
	for _, b := range []*box{a1, a2} {
		b.write(t, labID.String()+"/kernel", set.kernel)
		b.write(t, "verified", []byte{})
	}
	expect(t, vm, `LTSP Fleet: image lab, version 7 \(site default\), for pc01`)
	expect(t, vm, `did not deliver the initrd`)
	expect(t, vm, `did not deliver the initrd`)
	expect(t, vm, `could not boot: the initrd failed at each satellite of the site`)
	// When nothing was ready, a1 sent the PC to a2: that one is asked first since then.
	a1.write(t, labID.String()+"/initrd-full", set.initrd)
	expect(t, vm, `Satellite a2 did not deliver the initrd`)
	expect(t, vm, `Loading from satellite a1 at 192\.168\.67\.1`)
	booted(t, vm, set, "192.168.67.2")
}

// TestMenu shows the menu of ltsp.conf, and picks the image that is not the PC's own: all that is loaded then must be that one's.
func TestMenu(t *testing.T) {
	set := newBootSet(t)
	lab, lan := newNet(t)
	a1 := newBox(t, lab, lan, "a1", "192.168.67.1/24", "BOOTFILES_MENU=1")
	a1.write(t, officeID.String()+"/kernel", set.kernel)
	a1.write(t, officeID.String()+"/initrd-full", set.initrd)
	a1.write(t, "verified", []byte{})
	dhcp(t, lab, lan, "--dhcp-boot=tag:ipxe,http://192.168.67.1/boot.ipxe")
	vm := pc(t, lan, testvm.BIOS)
	expect(t, vm, `The image of the office`)
	expect(t, vm, `Leave iPXE and go on with the firmware`)
	if err := vm.Send("2"); err != nil {
		t.Fatal(err)
	}
	expect(t, vm, `LTSP Fleet: image office, version 2 \(menu\), for pc01`)
	text := expect(t, vm, `INIT CONFIG (\{.*\})\n`).Groups[0]
	b, err := agentproto.ParseBootConfig([]byte(strings.ReplaceAll(text, "\n", "")))
	if err != nil || b.Image != "office" || b.Number != 2 {
		t.Errorf("boot configuration %+v, %v", b, err)
	}
}

// TestUEFI boots OVMF: snponly.efi by TFTP or by HTTP, then all by HTTP.
func TestUEFI(t *testing.T) {
	set := newBootSet(t)
	loader, err := os.ReadFile("/usr/lib/ipxe/snponly.efi")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		firmware testvm.Firmware
		boot     []string
		log      string
	}{
		{"PXE", testvm.UEFI, []string{"--dhcp-boot=tag:!ipxe,ltsp/snponly.efi,,192.168.67.1"}, fmt.Sprintf("path=ltsp/snponly.efi bytes=%d", len(loader))},
		{"HTTP", testvm.UEFIHTTP, []string{
			"--dhcp-match=set:http,option:client-arch,16", "--dhcp-option-force=tag:http,tag:!ipxe,60,HTTPClient",
			"--dhcp-boot=tag:http,tag:!ipxe,http://192.168.67.1/boot/loader/snponly.efi",
		}, "method=GET path=/boot/loader/snponly.efi"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lab, lan := newNet(t)
			a1 := newBox(t, lab, lan, "a1", "192.168.67.1/24")
			a1.write(t, loaderID.String()+"/snponly.efi", loader)
			a1.write(t, labID.String()+"/kernel", set.kernel)
			a1.write(t, labID.String()+"/initrd-full", set.initrd)
			a1.write(t, "verified", []byte{})
			dhcp(t, lab, lan, append(tt.boot, "--dhcp-boot=tag:ipxe,http://192.168.67.1/boot.ipxe")...)
			vm := pc(t, lan, tt.firmware)
			expect(t, vm, `LTSP Fleet: image lab, version 7`)
			booted(t, vm, set, "192.168.67.1")
			a1.waitForLog(t, tt.log)
			if log, err := os.ReadFile(a1.log); err != nil || bytes.Contains(log, []byte("level=WARN")) || bytes.Contains(log, []byte("level=ERROR")) {
				t.Errorf("a normal boot is no event, %v:\n%s", err, log)
			}
		})
	}
}

// TestTFTPOnly boots where HTTP cannot be had.
func TestTFTPOnly(t *testing.T) {
	set := newBootSet(t)
	lab, lan := newNet(t)
	a1 := newBox(t, lab, lan, "a1", "192.168.67.1/24", "BOOTFILES_TFTP_ONLY=1")
	a1.write(t, labID.String()+"/kernel", set.kernel)
	a1.write(t, labID.String()+"/initrd-full", set.initrd)
	a1.write(t, "verified", []byte{})
	dhcp(t, lab, lan, "--dhcp-boot=tag:ipxe,ltsp/ltsp.ipxe,,192.168.67.1")
	vm := pc(t, lan, testvm.BIOS)
	expect(t, vm, `LTSP Fleet: image lab, version 7`)
	booted(t, vm, set, "192.168.67.1")
}
