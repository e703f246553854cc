//go:build component

package enforce

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/applet"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/policy"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/testtree"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	tree "github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// root makes a root directory with this machine's programs, of which scripts run in a chroot.
func root(t *testing.T) string {
	t.Helper()
	dir := testtree.New(t, map[string]string{
		"usr/": "", "proc/": "", "dev/": "", "run/": "", "sys/": "", "tmp/": "", "root/": "", "home/": "", "var/lib/": "",
		"bin": "-> usr/bin", "sbin": "-> usr/sbin", "lib": "-> usr/lib", "lib64": "-> usr/lib64",
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nbuilder:x:1000:1000::/home/builder:/bin/sh\n",
		"etc/shadow": "root:*:1:0:99999:7:::\nbuilder:!:1:0:99999:7:::\n", "etc/group": "root:x:0:\nbuilder:x:1000:\n", "etc/gshadow": "root:*::\nbuilder:!::\n",
		"etc/login.defs": "UID_MIN 1000\nUID_MAX 60000\nGID_MIN 1000\nGID_MAX 60000\n",
		"etc/hosts":      "127.0.0.1\tlocalhost\n", "etc/hostname": "image\n", "etc/fstab": "UUID=1 / ext4 defaults 0 1\n", "etc/ltsp/stale": "x",
	})
	for _, name := range []string{"usr", "dev", "proc"} {
		inside := filepath.Join(dir, name)
		if err := unix.Mount("/"+name, inside, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(inside, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	return dir
}

// state is a policy of one level.
func state(sum, conf string, files ...tree.File) *policy.State {
	t := append(tree.Tree{{Path: "ltsp.conf", Kind: tree.Regular, Mode: 0o644, Content: []byte(conf)}}, files...)
	t.Sort()
	return &policy.State{
		Sum: sum, Trees: []tree.Tree{t},
		PolicyState: agentproto.PolicyState{
			Layers: []agentproto.PolicyLayer{{Scope: "organisation", Number: 1}}, Server: "10.0.0.5", KnownHosts: []string{"server ssh-ed25519 AAAA"},
		},
		Accounts: &agentproto.Users{Passwd: "anna:x:2001:2001:Anna:/home/anna:/bin/sh\n", Group: "anna:x:2001:\n"},
	}
}

func config(t *testing.T, dir string) Config {
	return Config{
		Root: dir, System: step.None{}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Facts: step.Facts{
			Device: "eth0", MAC: net.HardwareAddr{0x52, 0x54, 0, 0x67, 0, 0x10}, Addr: netip.MustParsePrefix("192.168.67.20/24"), Gateway: netip.MustParseAddr("192.168.67.1"),
			Sys: filepath.Join(dir, "sys"),
		},
	}
}

// has checks that a file below the root has a text in it.
func has(t *testing.T, dir, name, text string) {
	t.Helper()
	if got := testtree.Read(t, dir, name); !strings.Contains(got, text) {
		t.Errorf("%s has no %q:\n%s", name, text, got)
	}
}

func hasNot(t *testing.T, dir, name, text string) {
	t.Helper()
	if got := testtree.Read(t, dir, name); strings.Contains(got, text) {
		t.Errorf("%s has %q:\n%s", name, text, got)
	}
}

const conf = `[clients]
HOSTNAME=pc%{IP}
HOSTS_PRINTER="10.0.0.9 printer"
POST_INIT_X='echo "$HOSTNAME $SERVER" > /etc/hooked'
`

// TestBootAndLive boots a root with a policy, brings it to another one, and tries one that does not parse.
func TestBootAndLive(t *testing.T) {
	dir := root(t)
	cfg := config(t, dir)
	first := state("1", conf, tree.File{Path: "bin/tool", Kind: tree.Regular, Mode: 0o755, Content: []byte("#!/bin/sh\n")})
	result, err := Boot(t.Context(), cfg, first)
	if err != nil {
		t.Fatal(err)
	}
	if result.Final["HOSTNAME"] != "pc20" {
		t.Errorf("host name %q", result.Final["HOSTNAME"])
	}
	has(t, dir, "etc/ltsp/ltsp.conf", "# organisation, version 1\n"+conf)
	has(t, dir, "etc/ltsp/ssh_known_hosts", "server ssh-ed25519 AAAA\n")
	has(t, dir, "etc/hostname", "pc20")
	has(t, dir, "etc/hosts", "10.0.0.5")
	has(t, dir, "etc/hosts", "10.0.0.9")
	has(t, dir, "etc/hooked", "pc20 10.0.0.5\n")
	has(t, dir, "etc/passwd", "anna:x:2001:2001:")
	hasNot(t, dir, "etc/passwd", "builder")
	if _, err := os.Stat(filepath.Join(dir, "etc/ltsp/stale")); !os.IsNotExist(err) {
		t.Errorf("the image's file: %v", err)
	}

	second := state("2", strings.Replace(conf, "10.0.0.9 printer", "10.0.0.10 printer", 1)+"FSTAB_X=\"server:/home /home nfs defaults 0 0\"\n")
	second.Accounts.Passwd += "bert:x:2002:2002:Bert:/home/bert:/bin/sh\n"
	second.Accounts.Group += "bert:x:2002:\n"
	out, err := Live(t.Context(), cfg, first, second)
	if err != nil {
		t.Fatal(err)
	}
	has(t, dir, "etc/passwd", "bert:x:2002:2002:")
	has(t, dir, "etc/hosts", "10.0.0.10")
	hasNot(t, dir, "etc/hosts", "10.0.0.9")
	if len(out.Errors) != 0 || !strings.Contains(strings.Join(out.Pending, "\n"), "FSTAB_X") {
		t.Errorf("got %+v", out)
	}

	third := state("3", "[clients]\nHOSTS_PRINTER=\"never\nif true; then )\n")
	if _, err := Live(t.Context(), cfg, second, third); !errors.Is(err, applet.ErrEvaluate) {
		t.Errorf("got %v", err)
	}
	has(t, dir, "etc/ltsp/ltsp.conf", "10.0.0.10")
	has(t, dir, "etc/hosts", "10.0.0.10")
	has(t, dir, "etc/passwd", "bert")
}

func TestBootStops(t *testing.T) {
	dir := root(t)
	_, err := Boot(t.Context(), config(t, dir), state("1", "[clients]\nDEBUG_SHELL=1\nPRE_INIT_X='false'\n"))
	var stop *StopError
	if !errors.As(err, &stop) || stop.Applet != applet.Init || !stop.Shell || !strings.Contains(err.Error(), "PRE_INIT") {
		t.Errorf("got %v", err)
	}
	_, err = Boot(t.Context(), config(t, dir), state("1", "[clients]\n:\nif true; then )\n"))
	if !errors.Is(err, applet.ErrEvaluate) || !strings.Contains(err.Error(), "ltsp.conf of organisation: line 3") {
		t.Errorf("got %v", err)
	}
}

// TestBootWithoutPolicy keeps what the image has.
func TestBootWithoutPolicy(t *testing.T) {
	dir := root(t)
	if _, err := Boot(t.Context(), config(t, dir), nil); err != nil {
		t.Fatal(err)
	}
	has(t, dir, "etc/ltsp/stale", "x")
	has(t, dir, "etc/passwd", "builder")
	has(t, dir, "etc/hostname", "ltsp20")
}
