package testvm

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// Firmware is what a machine starts with.
type Firmware int

// The firmwares. A BIOS machine boots from the iPXE in its network card's ROM; in the UEFI ones the ROM is taken out, so
// OVMF's own network stack is the client.
const (
	BIOS     Firmware = iota // SeaBIOS and the iPXE ROM: DHCP architecture 0
	UEFI                     // OVMF, PXE over IPv4: DHCP architecture 7
	UEFIHTTP                 // OVMF, HTTP boot over IPv4: DHCP architecture 16
)

func (f Firmware) String() string {
	switch f {
	case BIOS:
		return "BIOS"
	case UEFI:
		return "UEFI PXE"
	case UEFIHTTP:
		return "UEFI HTTP"
	}
	return fmt.Sprintf("firmware %d", int(f))
}

// Machine describes a virtual PC. Only Name is required.
type Machine struct {
	Name     string // file names are made of it: letters, digits, '-', '_' and '.'
	Firmware Firmware
	// SecureBoot switches it on, with Microsoft's keys enrolled; only for UEFI and UEFIHTTP.
	SecureBoot bool
	// Vars is a file of UEFI variables to start from (it is copied); empty: OVMF's own.
	Vars      string
	MemoryMiB int // 0: 256, with UEFI firmware 512
	CPUs      int // 0: 1, which under TCG is also the fastest

	Tap  *testnet.Tap // nil: no network card
	MAC  string       // empty: 52:54:00 and three bytes that depend on Name
	UUID string       // empty: depends on Name; never all zeros, which QEMU's own default is
	NIC  string       // device name; empty: virtio-net-pci. The cloud kernel has no driver for e1000

	Kernel string // boot this file directly instead of the network
	Initrd string // with Kernel
	Append string // kernel command line, with Kernel

	// SkipBanner presses a key whenever iPXE offers its command line, which saves two seconds each time.
	SkipBanner bool
	// Fatal ends Expect with an error as soon as it appears on the console; nil: `Kernel panic - not syncing`.
	Fatal *regexp.Regexp
	// ConsoleLog receives the raw console; empty: NAME.console in the rack's directory. It is truncated.
	ConsoleLog string
	ExtraArgs  []string // added to QEMU's command line
}

var (
	machineName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,40}$`)
	uuidPattern = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	panicked    = regexp.MustCompile(`Kernel panic - not syncing`)
)

// withDefaults checks m and fills what is empty; ConsoleLog depends on the rack and is left alone.
func (m Machine) withDefaults() (Machine, error) {
	if !machineName.MatchString(m.Name) {
		return m, fmt.Errorf("machine name %q does not match %s", m.Name, machineName)
	}
	if m.Firmware < BIOS || m.Firmware > UEFIHTTP {
		return m, fmt.Errorf("machine %s: unknown %s", m.Name, m.Firmware)
	}
	if m.Firmware == BIOS && (m.SecureBoot || m.Vars != "") {
		return m, fmt.Errorf("machine %s: Secure Boot and variables need UEFI firmware", m.Name)
	}
	if m.Kernel == "" && (m.Initrd != "" || m.Append != "") {
		return m, fmt.Errorf("machine %s: Initrd and Append need Kernel", m.Name)
	}
	if m.MemoryMiB < 0 || m.CPUs < 0 {
		return m, fmt.Errorf("machine %s: %d MiB and %d processors make no machine", m.Name, m.MemoryMiB, m.CPUs)
	}
	digest := sha256.Sum256([]byte(m.Name))
	if m.MAC == "" {
		m.MAC = fmt.Sprintf("52:54:00:%02x:%02x:%02x", digest[0], digest[1], digest[2])
	}
	if _, err := net.ParseMAC(m.MAC); err != nil {
		return m, fmt.Errorf("machine %s: %w", m.Name, err)
	}
	if m.UUID == "" {
		digest[6], digest[8] = digest[6]&0x0f|0x80, digest[8]&0x3f|0x80 // RFC 9562 section 5.8: version 8, own scheme
		m.UUID = fmt.Sprintf("%x-%x-%x-%x-%x", digest[:4], digest[4:6], digest[6:8], digest[8:10], digest[10:16])
	}
	if !uuidPattern.MatchString(m.UUID) {
		return m, fmt.Errorf("machine %s: %q is no UUID", m.Name, m.UUID)
	}
	if m.MemoryMiB == 0 {
		m.MemoryMiB = 256
		if m.Firmware != BIOS {
			m.MemoryMiB = 512
		}
	}
	if m.CPUs == 0 {
		m.CPUs = 1
	}
	if m.NIC == "" {
		m.NIC = "virtio-net-pci"
	}
	if m.Fatal == nil {
		m.Fatal = panicked
	}
	return m, nil
}

// firmwareFiles returns the code and the variables template of a UEFI machine.
func (m Machine) firmwareFiles() (code, vars string) {
	code, vars = filepath.Join(firmwareDir, "OVMF_CODE_4M.fd"), filepath.Join(firmwareDir, "OVMF_VARS_4M.fd")
	if m.SecureBoot {
		code, vars = filepath.Join(firmwareDir, "OVMF_CODE_4M.secboot.fd"), filepath.Join(firmwareDir, "OVMF_VARS_4M.ms.fd")
	}
	if m.Vars != "" {
		vars = m.Vars
	}
	return code, vars
}

// arguments is QEMU's command line. The serial console is QEMU's standard input and output; vars is the private copy of the
// UEFI variables.
func (m Machine) arguments(accel, vars string) []string {
	args := []string{
		"-name", m.Name, "-uuid", m.UUID, "-m", strconv.Itoa(m.MemoryMiB), "-smp", strconv.Itoa(m.CPUs),
		// -nographic makes SeaBIOS mirror its screen, and with it iPXE's, to the serial port.
		"-nographic", "-nodefaults", "-monitor", "none",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
	}
	switch accel {
	case "kvm":
		args = append(args, "-accel", "kvm", "-cpu", "host")
	default:
		// A wider CPU costs more under TCG. Every PC that can run this has rdrand; without it early TLS waits for entropy.
		// With svm a full system would load the kvm modules for nothing.
		args = append(args, "-accel", "tcg,thread=multi", "-cpu", "qemu64,+rdrand,-svm")
	}
	args = append(args, m.firmwareArguments(vars)...)
	args = append(args, m.networkArguments()...)
	if m.Kernel != "" {
		args = append(args, "-kernel", m.Kernel)
	}
	if m.Initrd != "" {
		args = append(args, "-initrd", m.Initrd)
	}
	if m.Append != "" {
		args = append(args, "-append", m.Append)
	}
	return append(args, m.ExtraArgs...)
}

func (m Machine) firmwareArguments(vars string) []string {
	if m.Firmware == BIOS {
		return []string{"-M", "pc"}
	}
	args := []string{"-M", "q35"}
	if m.SecureBoot {
		// The variables are only as safe as the system management mode that guards them.
		args = []string{"-M", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1"}
	}
	code, _ := m.firmwareFiles()
	args = append(args,
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+code,
		"-drive", "if=pflash,format=raw,unit=1,file="+vars)
	if m.Firmware == UEFIHTTP {
		// OVMF tries PXE before HTTP unless PXE is switched off.
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=no", "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no")
	}
	return args
}

func (m Machine) networkArguments() []string {
	if m.Tap == nil {
		return []string{"-nic", "none"}
	}
	device := m.NIC + ",netdev=n0,mac=" + m.MAC
	if m.Kernel == "" {
		device += ",bootindex=1"
	}
	if m.Firmware != BIOS || m.Kernel != "" {
		device += ",romfile=" // without iPXE's ROM OVMF's own network stack is the client
	}
	return []string{"-netdev", "tap,id=n0,ifname=" + m.Tap.Name + ",script=no,downscript=no", "-device", device}
}

// copyVars makes the machine's own copy of the UEFI variables.
func (m Machine) copyVars(dir string) (string, error) {
	if m.Firmware == BIOS {
		return "", nil
	}
	_, template := m.firmwareFiles()
	content, err := os.ReadFile(template)
	if err != nil {
		return "", fmt.Errorf("UEFI variables: %w", err)
	}
	path := filepath.Join(dir, m.Name+".vars")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return "", fmt.Errorf("UEFI variables: %w", err)
	}
	return path, nil
}
