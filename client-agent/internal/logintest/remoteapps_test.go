//go:build component

package logintest

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/remoteapps"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// desktop is a client with a screen and with ann's home on it, the same directory as on the login hosts.
type desktop struct {
	*client
	user as
}

// newDesktop shares the home of the first host with the others and the client, as NFS would.
func newDesktop(t *testing.T, hosts ...*loginHost) *desktop {
	t.Helper()
	c := newClient(t, noSSHFS, hosts...)
	home := hosts[0].path("home/ann")
	for _, m := range []*machine{c.machine, hosts[len(hosts)-1].machine} {
		if m.root == hosts[0].root {
			continue
		}
		if err := os.MkdirAll(m.path("home/ann"), 0o755); err != nil {
			t.Fatal(err)
		}
		m.mount("--bind", home, "home/ann")
	}
	run := "run/user/" + strconv.Itoa(annUID)
	c.must(as{}, "install", "-d", "-m", "700", "-o", strconv.Itoa(annUID), "-g", strconv.Itoa(annUID), "/"+run)
	d := &desktop{client: c, user: as{uid: annUID, env: []string{"HOME=/home/ann", "USER=ann", "DISPLAY=:7", "XAUTHORITY=/home/ann/.Xauthority", "XDG_RUNTIME_DIR=/" + run}}}
	c.must(d.user, "sh", "-c", "cd /home/ann && xauth -q add :7 . $(openssl rand -hex 16)")
	c.start(d.user, "Xvfb", ":7", "-screen", "0", "800x600x24", "-nolisten", "tcp", "-auth", "/home/ann/.Xauthority")
	await(t, "the screen is there", func() bool {
		_, code := c.run(d.user, "xwininfo", "-root")
		return code == 0
	})
	return d
}

func (d *desktop) register(s remoteapps.Settings) remoteapps.Report {
	d.t.Helper()
	root, err := os.OpenRoot(d.root)
	if err != nil {
		d.t.Fatal(err)
	}
	defer root.Close()
	report, err := remoteapps.Register(root, s)
	if err != nil {
		d.t.Fatal(err)
	}
	return report
}

// windows returns the client's windows as xwininfo tells them.
func (d *desktop) windows() string {
	out, _ := d.run(d.user, "xwininfo", "-root", "-tree")
	return out
}

func (d *desktop) sessions() []agentproto.Session {
	return d.spool().Sessions(func(uid int) string { return map[int]string{annUID: "ann"}[uid] })
}

func TestRemoteApplication(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	d := newDesktop(t, host)
	host.write("usr/local/bin/eyes", "#!/bin/sh\nexec xeyes -name \"$1\"\n", 0o755) // the client has no such program
	d.write("etc/ltsp/remoteapps.d/looking.conf", "Name=Looking Eyes\nExec=eyes\n", 0o644)
	if report := d.register(remoteapps.Settings{Words: "xclock"}); !slices.Equal(report.Made, []string{"looking", "xclock"}) {
		t.Fatalf("%+v", report)
	}
	stop, log := d.start(d.user, "looking", "it's $HOME; two words")
	await(t, "the window is there: "+log.String(), func() bool { return strings.Contains(d.windows(), `"it's $HOME; two words"`) })
	if n := len(host.processes("xeyes")); n != 1 {
		t.Errorf("%d xeyes run on the host: %s", n, log)
	}
	if got := d.sessions(); len(got) != 1 || got[0].Kind != "remoteapp" || got[0].User != "ann" || got[0].App != "looking" || got[0].Host != "server" {
		t.Errorf("sessions %+v", got)
	}
	keys := host.read("home/ann/.ssh/authorized_keys")
	if public := host.read("home/ann/.ssh/id_ed25519.pub"); keys != public {
		t.Errorf("authorized %q, key %q", keys, public)
	}
	stop()
	await(t, "the window goes", func() bool { return !strings.Contains(d.windows(), "two words") })
	await(t, "the program ends on the host", func() bool { return len(host.processes("xeyes")) == 0 })
	if got := d.sessions(); len(got) != 0 {
		t.Errorf("sessions afterwards %+v", got)
	}
	if out, code := d.run(d.user, "xclock", "-no-such-option"); code != 1 || !strings.Contains(out, "Usage") {
		t.Errorf("the program's own exit code: %d, %s", code, out)
	}
	if again := host.read("home/ann/.ssh/authorized_keys"); again != keys {
		t.Errorf("the keys became %q", again)
	}
}

func TestRemoteApplicationHosts(t *testing.T) {
	first, second := newLoginHost(t, hostAddr), newLoginHost(t, secondAddr)
	second.write("etc/passwd", first.read("etc/passwd"), 0o644)
	d := newDesktop(t, first, second)
	for _, h := range []*loginHost{first, second} {
		h.write("usr/local/bin/where", "#!/bin/sh\necho "+h.addr+"\n", 0o755)
	}
	d.register(remoteapps.Settings{Words: "where", Servers: "silent server no-such-host second"})
	// Both have the machine's load, so the first that answers is chosen.
	if out := d.must(d.user, "where"); out != hostAddr+"\n" {
		t.Errorf("it ran on %s", out)
	}
	// An application that runs on the second draws the next one there.
	d.write("etc/ltsp/remoteapps.d/sleeper.conf", "Exec=sleep 300\nHosts=second\n", 0o644)
	d.register(remoteapps.Settings{Words: "where", Servers: "server second"})
	stop, log := d.start(d.user, "sleeper")
	await(t, "it runs: "+log.String(), func() bool { return len(second.processes("sleep")) > 0 })
	if out := d.must(d.user, "where"); out != secondAddr+"\n" {
		t.Errorf("it ran on %s, the other application on the second", out)
	}
	stop()
	first.stop()
	if out := d.must(d.user, "where"); out != secondAddr+"\n" {
		t.Errorf("it ran on %s, the first host is away", out)
	}
	d.wantEvents()
}

func TestRemoteApplicationDeadHost(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	d := newDesktop(t, host)
	d.write("etc/ltsp/remoteapps.d/office.conf", "Name=Office\nExec=xeyes\n", 0o644)
	d.register(remoteapps.Settings{})
	pinned := d.read("etc/ltsp/ssh_known_hosts")
	d.write("etc/ltsp/ssh_known_hosts", strings.Replace(pinned, "server", "another", 1), 0o644)
	out, code := d.run(d.user, "office")
	if code != remoteapps.ExitUnavailable || !strings.Contains(out, "Office cannot be shown: server is not the computer that is known here") {
		t.Errorf("another key: %d, %s", code, out)
	}
	d.wantEvents(agentproto.EventRemoteApp)
	d.write("etc/ltsp/ssh_known_hosts", pinned, 0o644)
	host.stop()
	if out, code = d.run(d.user, "office"); code != remoteapps.ExitUnavailable || !strings.Contains(out, "Office cannot be shown: server does not answer.") {
		t.Errorf("a host that is away: %d, %s", code, out)
	}
	await(t, "a message is on the screen", func() bool { return strings.Contains(d.windows(), `"Office"`) })
	d.wantEvents(agentproto.EventRemoteApp)
	if out, code = d.run(d.user, "/run/ltsp/agent", "remoteapp", "nothing"); code != remoteapps.ExitUnknown || !strings.Contains(out, "not a remote application") {
		t.Errorf("an unknown application: %d, %s", code, out)
	}
}

// TestRemoteApplicationForeignHome has a home that the host does not share, so that the key is not known there.
func TestRemoteApplicationForeignHome(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	d := newDesktop(t, host)
	host.mount("-t", "tmpfs", "tmpfs", "home/ann")
	d.register(remoteapps.Settings{Words: "xeyes"})
	if out, code := d.run(d.user, "xeyes"); code != remoteapps.ExitUnavailable || !strings.Contains(out, "does not let you in") {
		t.Errorf("%d, %s", code, out)
	}
	d.wantEvents(agentproto.EventRemoteApp)
}

// TestRemoteApplicationOnWayland has a Wayland session, in which a program of the host sees the client's compositor.
func TestRemoteApplicationOnWayland(t *testing.T) {
	run := "/run/user/" + strconv.Itoa(annUID)
	host := newLoginHost(t, hostAddr, "SetEnv=XDG_RUNTIME_DIR="+run) // as logind does
	host.must(as{}, "install", "-d", "-m", "700", "-o", "ann", "-g", "ann", run)
	d := newDesktop(t, host)
	d.register(remoteapps.Settings{Words: "wayland-info"})
	d.user.env = append(slices.DeleteFunc(d.user.env, func(e string) bool { return strings.HasPrefix(e, "DISPLAY=") }), "WAYLAND_DISPLAY=lab")
	_, log := d.start(d.user, "weston", "--backend=headless-backend.so", "--socket=lab", "--idle-time=0", "--no-config")
	await(t, "the compositor is there: "+log.String(), func() bool { return d.exists(run + "/lab") })
	if out, code := d.run(d.user, "wayland-info"); code != 0 || !strings.Contains(out, "interface: 'wl_compositor'") {
		t.Errorf("%d, %s", code, out)
	}
	// The question whether it has waypipe, and the program.
	await(t, "two connections", func() bool { return host.count("Accepted publickey for ann") == 2 })
	// A host without waypipe shows nothing on this screen, which knows no X; the program runs all the same.
	host.must(as{}, "rm", "/usr/bin/waypipe")
	if out, code := d.run(d.user, "wayland-info"); code == 0 || strings.Contains(out, "interface: ") {
		t.Errorf("without waypipe: %d, %s", code, out)
	}
}
