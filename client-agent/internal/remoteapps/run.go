package remoteapps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginhost"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/spool"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Exit codes of a launcher of its own; else it has the program's. They are those of sysexits.h.
const (
	ExitUnknown     = 64 // no such application
	ExitUnavailable = 69 // no host answers, or it cannot be used
)

// sshFailed is ssh's own exit code.
const sshFailed = 255

// Main is the agent as a launcher: it runs a registered application for the user.
func Main(ctx context.Context, name string, args []string) int {
	root := os.DirFS("/")
	app, err := Find(root, name)
	if err != nil {
		Tell(os.Stderr, name, fmt.Sprintf("%v.", err))
		return ExitUnknown
	}
	l := &Launcher{App: app, Args: args, Spool: spool.System, Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Tell: func(text string) { Tell(os.Stderr, app.Title, text) }}
	return l.Run(ctx)
}

// Launcher starts an application for the user who runs it.
type Launcher struct {
	App   App
	Args  []string // what the user gave it
	Spool spool.Spool
	// Getenv is os.Getenv.
	Getenv func(string) string
	Stdin  *os.File
	Stdout io.Writer
	Stderr *os.File
	// Tell shows a message to the user.
	Tell func(text string)
}

// Run runs the application until it ends, and returns the exit code.
func (l *Launcher) Run(ctx context.Context) int {
	hosts := l.alive(ctx)
	if len(hosts) == 0 {
		return l.fail(fmt.Sprintf("%s does not answer", nameAll(l.App.Hosts)))
	}
	if err := ensureKey(ctx, l.Getenv("HOME")); err != nil {
		fmt.Fprintf(l.Stderr, "ltsp-agent: %v\n", err) // another key may do
	}
	host, waypipe := l.choose(ctx, hosts)
	session := agentproto.Session{Kind: spool.KindRemoteApp, User: l.Getenv("USER"), App: l.App.Name, Host: host.Name, Since: time.Now()}
	if record, err := l.Spool.AddSession(session, os.Getpid()); err == nil { // there is no place for it without logind
		defer os.Remove(record)
	}
	code, said, err := l.show(ctx, host, waypipe)
	if err != nil {
		return l.fail(err.Error())
	}
	if code == sshFailed && ctx.Err() == nil {
		return l.explain(host, said)
	}
	return code
}

// alive returns the hosts that answer.
func (l *Launcher) alive(ctx context.Context) []Host {
	var out []Host
	for i, ok := range each(l.App.Hosts, func(h Host) bool { return answers(ctx, h.address()) }) {
		if ok {
			out = append(out, l.App.Hosts[i])
		}
	}
	return out
}

// choose picks a host, and tells whether to use waypipe with it. Hosts are asked only if the answer counts: it costs a connection.
func (l *Launcher) choose(ctx context.Context, hosts []Host) (host Host, waypipe bool) {
	_, err := exec.LookPath("waypipe")
	wayland := err == nil && l.Getenv("WAYLAND_DISPLAY") != ""
	var probes []probe
	if wayland || len(hosts) > 1 {
		probes = each(hosts, func(h Host) probe { return l.probe(ctx, h) })
	}
	var inUse []string
	for _, s := range l.Spool.OwnSessions() {
		inUse = append(inUse, s.Host)
	}
	i := choose(hosts, probes, inUse)
	return hosts[i], wayland && probes[i].waypipe
}

func (l *Launcher) probe(ctx context.Context, h Host) probe {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssh", append(sshArgs(h, true), h.Name, probeCommand)...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return probe{}
	}
	return parseProbe(string(out))
}

// sshArgs are words for ssh that all connections share. batch asks the user nothing.
func sshArgs(h Host, batch bool) []string {
	out := []string{}
	for _, o := range []string{"UserKnownHostsFile=" + loginhost.KnownHosts, "GlobalKnownHostsFile=/dev/null", "StrictHostKeyChecking=yes", "UpdateHostKeys=no",
		"ControlMaster=no", "ControlPath=none", "ConnectTimeout=8", "ServerAliveInterval=15", "ServerAliveCountMax=4", "LogLevel=ERROR"} {
		out = append(out, "-o", o)
	}
	if batch {
		out = append(out, "-o", "BatchMode=yes")
	}
	if h.Port != 0 {
		out = append(out, "-p", strconv.Itoa(int(h.Port)))
	}
	return append(out, h.Options...)
}

// commandLine returns the program that shows an application, with its arguments.
func (l *Launcher) commandLine(host Host, waypipe, batch bool) []string {
	var line []string
	if waypipe {
		line = append(line, "waypipe")
	}
	line = append(line, "ssh")
	display := "-X"
	if l.App.Trusted {
		display = "-Y"
	}
	if !waypipe || l.Getenv("DISPLAY") != "" { // with both, programs that know no Wayland are shown too
		line = append(line, display)
	}
	line = append(line, sshArgs(host, batch)...)
	words := []string{l.App.Exec}
	for _, a := range l.Args {
		words = append(words, quote(a))
	}
	return append(line, host.Name, strings.Join(words, " "))
}

// quote makes a word of text for a shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// show runs the application and returns its exit code and the end of what it said.
func (l *Launcher) show(ctx context.Context, host Host, waypipe bool) (code int, said string, err error) {
	line := l.commandLine(host, waypipe, !isTerminal(l.Stdin))
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	tail := &tail{to: l.Stderr}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = l.Stdin, l.Stdout, tail
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), tail.text(), nil
	}
	return 0, tail.text(), err
}

// isTerminal tells whether a file is a terminal.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// explain tells why ssh failed.
func (l *Launcher) explain(host Host, said string) int {
	switch answer := loginhost.Classify(said); answer.Outcome {
	case loginhost.HostKey:
		return l.fail(fmt.Sprintf("%s is not the computer that is known here (%s)", host.Name, answer.Text))
	case loginhost.Refused:
		return l.fail(fmt.Sprintf("%s does not let you in; is your home folder the same there?", host.Name))
	case loginhost.Away:
		return l.fail(fmt.Sprintf("%s does not answer any more", host.Name))
	default:
		return l.fail(fmt.Sprintf("%s: %s", host.Name, answer.Text))
	}
}

// fail tells user and admin, and returns the exit code.
func (l *Launcher) fail(why string) int {
	why = spool.Clean(why, 300)
	l.Tell(l.App.Title + " cannot be shown: " + why + ".\nPlease tell the administrator.")
	_ = l.Spool.AddEvent(spool.Event(agentproto.EventRemoteApp, l.App.Name+" for "+l.Getenv("USER")+": "+why)) // the user knows
	return ExitUnavailable
}

func nameAll(hosts []Host) string {
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = h.Name
	}
	if len(names) == 1 {
		return names[0]
	}
	return "none of " + strings.Join(names, ", ")
}

// tail passes on what is written and keeps the end of it.
type tail struct {
	to   io.Writer
	kept []byte
}

const maxTail = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - maxTail; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return t.to.Write(p)
}

func (t *tail) text() string { return string(t.kept) }
