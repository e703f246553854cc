//go:build e2e

package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
)

// open makes a school for a test. When the test fails, logs, consoles and a capture of the LAN stay in the directory that it names.
func open(t *testing.T, prefix string, o school.Opening) *school.School {
	t.Helper()
	dir, err := os.MkdirTemp("", "ltsp-e2e-"+prefix+"-") //nolint:usetesting // what a failed test leaves must outlive it
	if err != nil {
		t.Fatal(err)
	}
	s, err := school.New(t.Context(), school.Config{Bin: needEnv(t, "LTSP_BIN"), Cache: needEnv(t, "LTSP_CACHE"), Dir: dir, Prefix: prefix, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, vm := range s.Rack.VMs() {
			if t.Failed() {
				t.Logf("console of a machine:\n%s", vm.Tail(40))
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("evidence is in %s", dir)
			printLogs(t, dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	capture, err := s.LAN.Capture(t.Context(), filepath.Join(dir, "lan.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = capture.Stop() })
	if err := s.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return s
}

// printLogs shows the end of each daemon's log, for CI where nobody can look at files.
func printLogs(t *testing.T, dir string) {
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, path := range logs {
		data, err := os.ReadFile(path)
		if err == nil {
			t.Logf("end of %s:\n%s", filepath.Base(path), data[max(0, len(data)-6000):])
		}
	}
}

func needEnv(t *testing.T, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Fatalf("%s is not set; run this by \"make e2e\"", name)
	}
	return v
}

// boot starts a PC and waits until the controller knows it as healthy.
func boot(t *testing.T, s *school.School, m testvm.Machine) (*testvm.VM, *school.ClientInfo) {
	t.Helper()
	vm, err := s.PC(m)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	began := time.Now()
	client, err := s.AwaitHealthyWatching(ctx, vm, m.MAC, t.Logf)
	if err != nil {
		t.Fatalf("%s: %v\nconsole:\n%s", m.Name, err, vm.Tail(60))
	}
	t.Logf("%s (%s): healthy after %.1f s wall, %.1f s CPU", m.Name, m.Firmware, time.Since(began).Seconds(), vm.CPU().Seconds())
	return vm, client
}

func mac(n string) string { return "52:54:00:67:01:" + n }

func TestFirmwareKinds(t *testing.T) {
	s := open(t, "e2efw", school.Opening{})
	broken := breakBoot(t, s)
	t.Run("BIOS iPXE", func(t *testing.T) {
		vm, client := boot(t, s, testvm.Machine{Name: "bios", MAC: mac("01")})
		checkClient(t, client)
		checkSystem(t, vm)
	})
	t.Run("UEFI PXE", func(t *testing.T) {
		_, client := boot(t, s, testvm.Machine{Name: "uefi", Firmware: testvm.UEFI, MAC: mac("02")})
		checkClient(t, client)
	})
	t.Run("UEFI HTTP", func(t *testing.T) {
		_, client := boot(t, s, testvm.Machine{Name: "uefihttp", Firmware: testvm.UEFIHTTP, MAC: mac("03")})
		checkClient(t, client)
	})
	t.Run("failed boot is told", func(t *testing.T) { checkFailure(t, s, broken) })
	t.Run("NBD for strangers", func(t *testing.T) { checkNBD(t, s) })
	t.Run("satellite killed under running clients", func(t *testing.T) { killSatellite(t, s) })
	t.Run("controller stopped, satellite restarted", func(t *testing.T) { standAlone(t, s) })
}

// checkClient looks at what the admin is told.
func checkClient(t *testing.T, c *school.ClientInfo) {
	t.Helper()
	if c.Report.Version != school.ImageName+"@1" || !c.Report.NBD || !strings.HasPrefix(c.Report.Address, "192.168.67.") || c.Report.Hostname == "" {
		t.Errorf("report %+v", c.Report)
	}
	last := -1.0
	seen := map[string]bool{}
	for _, step := range c.Report.Timeline {
		if step.Seconds < last {
			t.Errorf("timeline goes back at %q: %+v", step.Name, c.Report.Timeline)
		}
		last, seen[step.Name] = step.Seconds, true
	}
	for _, name := range []string{"dhcp-discover", "script", "kernel-sent", "kernel", "agent", "nbd", "root", "systemd", "healthy"} {
		if !seen[name] {
			t.Errorf("timeline lacks %q: %+v", name, c.Report.Timeline)
		}
	}
}

// checkSystem logs in on the serial console (the test image has root there) and looks at the running system itself.
func checkSystem(t *testing.T, vm *testvm.VM) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := vm.Send("\n"); err != nil {
		t.Fatal(err)
	}
	for _, check := range []struct{ name, command, want string }{
		{"root is an overlay", `grep -q '^[^ ]* / overlay ' /proc/mounts && echo root-ok`, `root-ok`},
		{"dm-verity is in the path", `ls /sys/block/dm-0/slaves/nbd0 >/dev/null && echo verity-ok`, `verity-ok`},
		{"the root can be written", `echo x > /etc/probe && cat /etc/probe | sed s/x/write-ok/`, `write-ok`},
		{"machine-id comes from the MAC", `cut -c1-12 /etc/machine-id`, `525400670101`},
		{"the name is set and resolves", `getent hosts $(hostname) >/dev/null && echo name-$?`, `name-0`},
		{"no package of ours in the image", `ls /usr/bin/ltsp* /usr/sbin/ltsp* 2>/dev/null | wc -l | sed s/^0/none-ok/`, `none-ok`},
		{"the keeper lives", `cat /proc/[0-9]*/cmdline 2>/dev/null | grep -q -a '@[l]tsp-keeper' && echo keeper-$?`, `keeper-0`},
	} {
		// The command is echoed by the terminal: quotes keep the answer from matching it.
		if err := vm.Send(check.command + "\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Expect(ctx, `(?m)^\r?`+check.want); err != nil {
			t.Errorf("%s: %v", check.name, err)
		}
	}
}

// breakBoot starts a PC that cannot reach the satellite's NBD port. It takes a minute and a half until its agent gives up.
func breakBoot(t *testing.T, s *school.School) *testvm.VM {
	t.Helper()
	const address = "192.168.67.77"
	if err := s.Do(t.Context(), "client", "set", mac("05"), "--site", school.Site, "--name", "broken", "--address", address,
		"--kernel-parameters", "ltsp.reboot=600"); err != nil {
		t.Fatal(err)
	}
	rules := "add table inet broken; add chain inet broken in { type filter hook input priority 0; }; " +
		"add rule inet broken in ip saddr " + address + " tcp dport 10809 drop"
	if out, err := s.Run(t.Context(), s.Satellite("sat1"), "nft", rules); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	vm, err := s.PC(testvm.Machine{Name: "broken", MAC: mac("05"), Fatal: regexp.MustCompile(`Kernel panic - not syncing`)})
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// checkFailure wants the reason of a failed boot on the console and at the controller.
func checkFailure(t *testing.T, s *school.School, vm *testvm.VM) {
	defer vm.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if _, err := vm.Expect(ctx, `boot failed stage=nbd\s+what happened: +\S.*\s+what to do: +\S`); err != nil {
		t.Fatalf("%v\nconsole:\n%s", err, vm.Tail(40))
	}
	err := s.Await(ctx, "the controller knows of the failed boot", func() error {
		c, err := s.Client(ctx, mac("05"))
		if err != nil {
			return err
		}
		if c.Report == nil || c.Report.State != "failed" || len(c.Report.Reasons) == 0 || c.Report.Address != "192.168.67.77" {
			return fmt.Errorf("it is %+v", c.Report)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// checkNBD reads the whole export with other people's programs and compares it with what was published.
func checkNBD(t *testing.T, s *school.School) {
	ctx := t.Context()
	image, err := s.Image(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sat := s.Satellite("sat1")
	list, err := s.Run(ctx, sat, "nbdinfo", "--list", "--json", "nbd://192.168.67.1")
	if err != nil {
		t.Fatal(err)
	}
	export := exportName(list)
	if export == "" {
		t.Fatalf("no export of %s in %s", school.ImageName, list)
	}
	copied := filepath.Join(s.Dir, "copied")
	if _, err := s.Run(ctx, sat, "nbdcopy", "nbd://192.168.67.1/"+export, copied); err != nil {
		t.Fatal(err)
	}
	if err := samePrefix(image, copied); err != nil {
		t.Error(err)
	}
	if out, err := s.Run(ctx, sat, "qemu-img", "compare", "-f", "raw", "-F", "raw", copied, "nbd://192.168.67.1/"+export); err != nil {
		t.Errorf("qemu-img: %v: %s", err, out)
	}
	if out, err := s.Run(ctx, sat, "unsquashfs", "-s", copied); err != nil || !strings.Contains(out, "SQUASHFS 4") {
		t.Errorf("unsquashfs: %v: %s", err, out)
	}
}

// exportName finds the image's export in nbdinfo's JSON.
func exportName(list string) string {
	for part := range strings.SplitSeq(list, `"`) {
		if strings.HasPrefix(part, school.ImageName+"@") {
			return part
		}
	}
	return ""
}

// samePrefix compares all bytes of file a with the beginning of file b.
func samePrefix(a, b string) error {
	want, err := os.ReadFile(a)
	if err != nil {
		return err
	}
	got, err := os.ReadFile(b)
	if err != nil {
		return err
	}
	if len(got) < len(want) || string(got[:len(want)]) != string(want) {
		return errors.New("the export's bytes are not those of the published file")
	}
	return nil
}

// biosPC is the machine that the first subtest booted and nobody has ended.
func biosPC(t *testing.T, s *school.School) *testvm.VM {
	t.Helper()
	for _, vm := range s.Rack.VMs() {
		if vm.Machine.Name == "bios" {
			return vm
		}
	}
	t.Fatal("the PC of the BIOS test does not run")
	return nil
}

// killSatellite ends the satellite as a power cut would, starts it again, and wants the running PC to go on without an error.
func killSatellite(t *testing.T, s *school.School) {
	vm := biosPC(t, s)
	if err := s.Kill9("sat1"); err != nil {
		t.Fatal(err)
	}
	// This read waits for its satellite: the image has files that no boot has touched.
	if err := vm.Send("find /usr -xdev -type f -exec cat {} + | wc -c | sed 's/^/read-all-/'; dmesg | grep -c 'I/O error' | sed 's/^/io-errors-/'\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.StartSatellite(t.Context(), "sat1"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if _, err := vm.Expect(ctx, `read-all-[1-9][0-9]+`); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Expect(ctx, `io-errors-0`); err != nil {
		t.Error(err)
	}
}

// standAlone boots a PC from a satellite that was restarted while the controller is away.
func standAlone(t *testing.T, s *school.School) {
	for _, daemon := range []string{"controller", "sat1"} {
		if err := s.Stop(t.Context(), daemon); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.StartSatellite(t.Context(), "sat1"); err != nil {
		t.Fatal(err)
	}
	vm, err := s.PC(testvm.Machine{Name: "alone", MAC: mac("04")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if _, err := vm.Expect(ctx, `ltsp-agent: healthy `+school.ImageName+`@1`); err != nil {
		t.Fatalf("%v\nconsole:\n%s", err, vm.Tail(60))
	}
	if err := s.StartController(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AwaitHealthy(ctx, mac("04")); err != nil {
		t.Errorf("after the controller came back: %v", err)
	}
}

func TestProxyDHCP(t *testing.T) {
	s := open(t, "e2epx", school.Opening{SubnetFlags: []string{"--mode", "proxy"}})
	router, err := s.Lab.Host("router", s.LAN.At("192.168.67.254/24"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = router.Start(t.Context(), testnet.Proc{Path: "dnsmasq", LogFile: filepath.Join(s.Dir, "dnsmasq.log"), Args: []string{
		"--no-daemon", "--port=0", "--no-ping", "--log-dhcp", "--interface=lan", "--bind-interfaces", "--leasefile-ro", "--conf-file=/dev/null", "--user=root",
		"--dhcp-range=192.168.67.100,192.168.67.150,1h", "--dhcp-option=option:router,192.168.67.254"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []testvm.Machine{{Name: "pxbios", MAC: mac("11")}, {Name: "pxuefi", MAC: mac("12"), Firmware: testvm.UEFI}} {
		t.Run(m.Firmware.String(), func(t *testing.T) {
			_, client := boot(t, s, m)
			if !strings.HasPrefix(client.Report.Address, "192.168.67.1") || len(client.Report.Address) != len("192.168.67.1xx") {
				t.Errorf("address %s is not the router's to give", client.Report.Address)
			}
		})
	}
}
