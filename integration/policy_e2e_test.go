//go:build e2e

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
)

// etcLTSP is a school's /etc/ltsp: every kind of thing that it can hold.
var etcLTSP = map[string]string{
	"ltsp.conf": `# The lab.
[clients]
HOSTNAME=lab%{IP}
HOSTS_PRINTER="192.168.67.9 printer"
CRONTAB_NIGHT="30 3 * * * root touch /tmp/night"
FSTAB_PROC="tmpfs /mnt tmpfs size=1m 0 0"
MASK_SYSTEM_SERVICES="systemd-timesyncd"
INCLUDE=more
PRE_INIT_BOTH='PREPARED=yes'
POST_INIT_MARK='echo "$HOSTNAME $PREPARED $MAC_ADDRESS $COLOUR" > /etc/hooked'

[more]
COLOUR=blue

[52:54:00:67:01:*]
COLOUR=green

[initrd-bottom/lab*]
NEVER=1
`,
	"client/init/60-own.sh": "own_main() {\n    echo \"own $COLOUR\" > /etc/own\n}\n",
	"motd.d/hello":          "hello\n",
}

// writeTree writes files into a directory of the test.
func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// question is asked on the console: the answer must begin a line.
type question struct{ name, command, want string }

// ask logs in on the serial console (the test image has root there) and looks at the running system itself.
func ask(t *testing.T, vm *testvm.VM, questions ...question) {
	t.Helper()
	for _, q := range questions {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		if err := vm.Send("\n" + q.command + "\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Expect(ctx, `(?m)^\r?`+q.want+`\r?$`); err != nil {
			t.Errorf("%s: %v\n%s", q.name, err, vm.Tail(15))
		}
		cancel()
	}
}

func mustDo(t *testing.T, s *school.School, args ...string) string {
	t.Helper()
	out, err := s.Ctl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestPolicy boots a PC with an organisation's and a site's policy, changes the site's while the PC runs, and has it do what an administrator says.
func TestPolicy(t *testing.T) {
	s := open(t, "e2epol", school.Opening{})
	mustDo(t, s, "policy", "apply", writeTree(t, map[string]string{"ltsp.conf": "[clients]\nCOLOUR=red\nHOSTS_ROUTER=\"192.168.67.1 router\"\n", "motd.d/hello": "no\n"}), "--org", "--yes")
	mustDo(t, s, "policy", "apply", writeTree(t, etcLTSP), "--site", school.Site, "--yes")
	mustDo(t, s, "site", "set", school.Site, "--allow-run")
	address := mac("0a")
	vm, client := boot(t, s, testvm.Machine{Name: "policy", MAC: address})
	if !strings.HasPrefix(client.Report.Hostname, "lab") {
		t.Errorf("host name %s", client.Report.Hostname)
	}
	ask(t, vm,
		question{"hook ran with the values of all levels", `cat /etc/hooked`, `lab[0-9]+ yes ` + address + ` green`},
		question{"drop-in script ran", `cat /etc/own`, `own green`},
		question{"host name", `hostname`, `lab[0-9]+`},
		question{"hosts of both levels", `getent hosts printer router | awk '{print $1}' | tr '\n' ' '; echo`, `192\.168\.67\.9 192\.168\.67\.1 `},
		question{"cron line", `grep -c 'touch /tmp/night' /etc/cron.d/ltsp`, `1`},
		question{"fstab and its mount", `grep -c '^tmpfs /mnt ' /etc/fstab /proc/mounts | tr '\n' ' '; echo`, `/etc/fstab:1 /proc/mounts:1 `},
		question{"masked service", `systemctl is-enabled systemd-timesyncd`, `masked`},
		question{"configuration is root's", `stat -c %a /etc/ltsp/ltsp.conf /run/ltsp/policy | tr '\n' ' '; echo`, `600 700 `},
		question{"both levels can be read", `grep -c '^# \(organisation\|site/[a-z0-9]*\), version 1$' /etc/ltsp/ltsp.conf`, `2`},
		question{"the site's file wins", `cat /etc/ltsp/motd.d/hello`, `hello`},
		question{"nothing of the initrd is left mounted", `grep -c ' /newroot' /proc/mounts`, `0`},
	)
	t.Run("a change reaches the running client", func(t *testing.T) { changePolicy(t, s, vm, address) })
	t.Run("a policy that does not parse changes nothing", func(t *testing.T) { breakPolicy(t, s, vm) })
	t.Run("commands", func(t *testing.T) { command(t, s, vm, address) })
}

// changePolicy applies what a running client can do at once and what it cannot.
func changePolicy(t *testing.T, s *school.School, vm *testvm.VM, address string) {
	conf := strings.NewReplacer("192.168.67.9 printer", "192.168.67.10 printer", "size=1m", "size=2m", "30 3 * * *", "31 4 * * *").Replace(etcLTSP["ltsp.conf"])
	dir := writeTree(t, map[string]string{"ltsp.conf": conf})
	began := time.Now()
	mustDo(t, s, "policy", "apply", filepath.Join(dir, "ltsp.conf"), "--site", school.Site, "--yes")
	ask(t, vm, question{"hosts file", `until grep -q '192.168.67.10' /etc/hosts; do sleep 0.2; done; echo chang''ed`, `changed`})
	t.Logf("%.1f s from policy apply to the hosts file of the client", time.Since(began).Seconds())
	ask(t, vm,
		question{"cron line", `grep -c '^31 4 ' /etc/cron.d/ltsp`, `1`},
		question{"fstab stays for the next boot", `grep -c 'size=1m' /etc/fstab`, `1`},
		question{"text for people", `grep -c 'version 2$' /etc/ltsp/ltsp.conf`, `1`},
		question{"other files are there still", `cat /etc/ltsp/motd.d/hello`, `hello`},
	)
	awaitShown(t, s, address, "FSTAB_PROC")
}

// awaitShown waits until the controller tells something of a client.
func awaitShown(t *testing.T, s *school.School, address, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := s.Await(ctx, fmt.Sprintf("client %s shows %q", address, text), func() error {
		out, err := s.Ctl(ctx, "client", "show", address)
		if err == nil && !strings.Contains(out, text) {
			err = fmt.Errorf("it shows %s", out)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// breakPolicy applies a text that no shell reads. The controller may refuse it; by a client that gets it nothing is done.
func breakPolicy(t *testing.T, s *school.School, vm *testvm.VM) {
	dir := writeTree(t, map[string]string{"ltsp.conf": "[clients]\nHOSTS_PRINTER=\"192.168.67.11 printer\"\nif true; then )\n"})
	if _, err := s.Ctl(t.Context(), "policy", "apply", filepath.Join(dir, "ltsp.conf"), "--site", school.Site, "--yes"); err == nil {
		t.Error("the controller has taken it")
		mustDo(t, s, "policy", "undo", "--site", school.Site, "--yes")
	}
	ask(t, vm, question{"hosts file", `grep -c '192.168.67.10' /etc/hosts`, `1`})
}

// command has the client do what an administrator can ask for; the last is to restart.
func command(t *testing.T, s *school.School, vm *testvm.VM, address string) {
	if out := mustDo(t, s, "client", "run", address, "--", "sh", "-c", "echo ran as $(id -un) on $(hostname)"); !strings.Contains(out, "ran as root on lab") {
		t.Errorf("run: %s", out)
	}
	if out := mustDo(t, s, "client", "logs", address, "--unit", "ltsp-agent.service"); !strings.Contains(out, "policy is in force") {
		t.Errorf("logs: %s", out)
	}
	mustDo(t, s, "client", "message", address, "--text", "five minutes\x1b[2J left")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if _, err := vm.Expect(ctx, `five minutes.*left`); err != nil {
		t.Errorf("message: %v", err)
	}
	mustDo(t, s, "client", "reboot", address)
	if _, err := vm.Expect(ctx, `(?s)reboot: Restarting system.*Linux version`); err != nil {
		t.Errorf("reboot: %v", err)
	}
	if _, err := vm.Expect(ctx, `ltsp-agent: healthy`); err != nil {
		t.Fatalf("after the reboot: %v", err)
	}
	ask(t, vm, question{"what was pending is done", `grep -c 'size=2m' /etc/fstab`, `1`})
}

// TestImageToRAM boots a PC that copies its image into memory, and takes the satellite away.
func TestImageToRAM(t *testing.T) {
	s := open(t, "e2eram", school.Opening{})
	conf := "[52:54:00:67:01:0b]\nIMAGE_TO_RAM=1\n"
	mustDo(t, s, "policy", "apply", writeTree(t, map[string]string{"ltsp.conf": conf}), "--org", "--yes")
	vm, client := boot(t, s, testvm.Machine{Name: "ram", MAC: mac("0b"), MemoryMiB: 768})
	if client.Report.NBD {
		t.Errorf("it has a root connection: %+v", client.Report)
	}
	ask(t, vm,
		question{"the root is read from a loop device", `ls /sys/block/dm-0/slaves`, `loop[0-9]+`},
		question{"no keeper", `cat /proc/[0-9]*/cmdline 2>/dev/null | grep -c -a '@[l]tsp-keeper'`, `0`},
		question{"the NBD device is free", `cat /sys/block/nbd0/size`, `0`},
	)
	if err := s.Kill9("sat1"); err != nil {
		t.Fatal(err)
	}
	ask(t, vm, question{"all files can be read without a satellite",
		`echo 3 > /proc/sys/vm/drop_caches; find / -xdev -type f -exec cat {} + 2>/dev/null | wc -c | sed 's/^[0-9]\{8,\}$/whole/'`, `whole`})
}

// TestHookThatFails boots a PC whose hook goes wrong: it stops and says where, and goes on by itself when the policy is corrected.
func TestHookThatFails(t *testing.T) {
	s := open(t, "e2ehook", school.Opening{})
	mustDo(t, s, "policy", "apply", writeTree(t, map[string]string{"ltsp.conf": "[clients]\nPOST_INIT_MOUNT='ls /no/such/place'\n"}), "--org", "--yes")
	address := mac("0c")
	vm, err := s.PC(testvm.Machine{Name: "hook", MAC: address, Fatal: regexp.MustCompile(`Kernel panic - not syncing`)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	for _, text := range []string{`ltsp-agent: boot failed stage=policy`, `what happened:  init, POST POST_INIT.*/no/such/place`, `what to do:     .*ltspctl policy undo`} {
		if _, err := vm.Expect(ctx, text); err != nil {
			t.Fatal(err)
		}
	}
	awaitShown(t, s, address, "/no/such/place")
	mustDo(t, s, "policy", "apply", writeTree(t, map[string]string{"ltsp.conf": "[clients]\nPOST_INIT_MOUNT='ls /'\n"}), "--org", "--yes")
	if _, err := vm.Expect(ctx, `ltsp-agent: healthy`); err != nil {
		t.Fatal(err)
	}
}
