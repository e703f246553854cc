package testvm

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

func TestDefaults(t *testing.T) {
	a, err := Machine{Name: "pc1"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Machine{Name: "pc2", Firmware: UEFI}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if a.MAC == b.MAC || a.UUID == b.UUID || !strings.HasPrefix(a.MAC, "52:54:00:") {
		t.Errorf("two machines look alike: %s %s, %s %s", a.MAC, b.MAC, a.UUID, b.UUID)
	}
	if again, _ := (Machine{Name: "pc1"}).withDefaults(); again.MAC != a.MAC || again.UUID != a.UUID {
		t.Error("a machine changes between two starts")
	}
	if a.MemoryMiB != 256 || b.MemoryMiB != 512 || a.CPUs != 1 || a.NIC != "virtio-net-pci" || a.Fatal == nil {
		t.Errorf("defaults %+v, %+v", a, b)
	}
}

func TestRefusedMachines(t *testing.T) {
	for name, m := range map[string]Machine{
		"no name":          {},
		"path in name":     {Name: "../x"},
		"unknown firmware": {Name: "x", Firmware: 7},
		"BIOS and SB":      {Name: "x", SecureBoot: true},
		"BIOS and vars":    {Name: "x", Vars: "y"},
		"append alone":     {Name: "x", Append: "quiet"},
		"MAC":              {Name: "x", MAC: "nonsense"},
		"UUID":             {Name: "x", UUID: "1234"},
		"memory":           {Name: "x", MemoryMiB: -1},
	} {
		if _, err := m.withDefaults(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestArguments(t *testing.T) {
	tap := &testnet.Tap{Name: "vm0"}
	tests := []struct {
		name          string
		machine       Machine
		accel         string
		want, without []string
	}{
		{
			"BIOS", Machine{Tap: tap}, "tcg",
			[]string{"-M pc", "tcg,thread=multi", "-cpu qemu64,+rdrand,-svm", "ifname=vm0,script=no,downscript=no", "virtio-net-pci,netdev=n0,mac=", "bootindex=1", "-nographic"},
			[]string{"romfile=", "pflash", "-kernel"},
		},
		{
			"UEFI", Machine{Tap: tap, Firmware: UEFI}, "tcg",
			[]string{"-M q35", "unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd", "unit=1,file=/run/x.vars", "bootindex=1,romfile="},
			[]string{"fw_cfg", "smm=on"},
		},
		{"UEFI HTTP", Machine{Tap: tap, Firmware: UEFIHTTP}, "tcg", []string{"IPv4PXESupport,string=no", "IPv6PXESupport,string=no"}, nil},
		{"Secure Boot", Machine{Firmware: UEFI, SecureBoot: true}, "tcg", []string{"smm=on", "OVMF_CODE_4M.secboot.fd", "property=secure,value=on"}, []string{"netdev"}},
		{"KVM", Machine{}, "kvm", []string{"-accel kvm", "-cpu host", "-nic none"}, []string{"tcg"}},
		{"direct", Machine{Tap: tap, Kernel: "k", Initrd: "i", Append: "console=ttyS0 x"}, "tcg", []string{"-kernel k", "-initrd i", "-append console=ttyS0 x"}, []string{"bootindex"}},
		{"card and more", Machine{Tap: tap, NIC: "e1000", ExtraArgs: []string{"-snapshot"}}, "tcg", []string{"-device e1000,", "-snapshot"}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.machine.Name = "x"
			m, err := test.machine.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			line := strings.Join(m.arguments(test.accel, "/run/x.vars"), " ")
			for _, part := range test.want {
				if !strings.Contains(line, part) {
					t.Errorf("no %q in %s", part, line)
				}
			}
			for _, part := range test.without {
				if strings.Contains(line, part) {
					t.Errorf("%q in %s", part, line)
				}
			}
		})
	}
}

func TestVarsAreCopied(t *testing.T) {
	template := filepath.Join(t.TempDir(), "template")
	if err := os.WriteFile(template, []byte("variables"), 0o444); err != nil {
		t.Fatal(err)
	}
	path, err := Machine{Name: "x", Firmware: UEFI, Vars: template}.copyVars(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "variables" || path == template {
		t.Errorf("%s: %q, %v", path, got, err)
	}
	if _, err := (Machine{Name: "x", Firmware: UEFI, Vars: template + "x"}).copyVars(t.TempDir()); err == nil {
		t.Error("a missing template is no error")
	}
	if path, err := (Machine{Name: "x"}).copyVars(t.TempDir()); path != "" || err != nil {
		t.Errorf("BIOS: %q, %v", path, err)
	}
}

func TestHasVirtualisation(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                  false,
		"flags\t\t: fpu vmx sse\n":          true,
		"flags : fpu svm\nflags : fpu\n":    true,
		"model name : vmx\nflags : fpu\n":   false,
		"flags : fpu vmxx\nflags : fpu vmx": false,
	} {
		if got := hasVirtualisation([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestChooseAccel(t *testing.T) {
	r := &Rack{}
	for _, choice := range []string{"tcg", "kvm"} {
		t.Setenv(accelVariable, choice)
		if got, err := r.chooseAccel(t.Context()); got != choice || err != nil {
			t.Errorf("%s: %s, %v", choice, got, err)
		}
	}
	t.Setenv(accelVariable, "magic")
	if got, err := r.chooseAccel(t.Context()); err == nil {
		t.Errorf("magic: %s", got)
	}
	r.config.Accel = "tcg"
	if got, err := r.chooseAccel(t.Context()); got != "tcg" || err != nil {
		t.Errorf("configuration over environment: %s, %v", got, err)
	}
}

func TestAttach(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := listenConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("prompt> "))
		_, _ = io.Copy(conn, conn)
	}()
	in, keys, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer keys.Close()
	screen, show := io.Pipe()
	visit := make(chan error, 1)
	go func() { visit <- Attach(t.Context(), path, in, show) }()
	if _, err := keys.WriteString("ls\r"); err != nil {
		t.Fatal(err)
	}
	seen := make([]byte, len("prompt> ls\r"))
	if _, err := io.ReadFull(screen, seen); err != nil || string(seen) != "prompt> ls\r" {
		t.Errorf("the screen shows %q, %v", seen, err)
	}
	if _, err := keys.Write([]byte{DetachKey}); err != nil {
		t.Fatal(err)
	}
	if err := <-visit; err != nil {
		t.Error(err)
	}
	listener.Close()
	<-served
	if err := Attach(t.Context(), path, in, show); err == nil {
		t.Error("attached to nobody")
	}
}

func TestTypeKeys(t *testing.T) {
	for in, want := range map[string]string{"ls\r": "ls\r", "ab\x1dcd": "ab", "\x1d": "", "\x03": "\x03"} {
		var out bytes.Buffer
		typeKeys(&out, strings.NewReader(in))
		if out.String() != want {
			t.Errorf("%q: %q", in, out.String())
		}
	}
}
