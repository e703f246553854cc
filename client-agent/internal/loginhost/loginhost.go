// Package loginhost asks the site's login host whether a password is a user's, by the image's own OpenSSH, and understands what ssh says. Its command
// line is shared with sshfs. The host is believed only if its key is one of those that the policy pinned.
package loginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
)

// Times. ConnectTimeout is ssh's, for the connection and the key exchange.
const (
	ConnectTimeout = 8 * time.Second
	Timeout        = 25 * time.Second // for a whole run
)

// AskpassEnv marks the agent as ssh's askpass in its environment; ssh gives askpass no arguments of ours.
const AskpassEnv = "LTSP_AGENT_ASKPASS"

// KnownHosts lists the pinned keys.
const KnownHosts = "/" + loginconf.KnownHostsPath

// Outcome is how an attempt ended.
type Outcome int

// Outcomes. The zero value is none of them.
const (
	Accepted Outcome = iota + 1
	Refused          // the host does not take this password
	HostKey          // the host's key is not the pinned one, or none is pinned
	Away             // the host does not answer
	Broken           // the host answers, but something else is wrong
)

// Answer is what came of an attempt.
type Answer struct {
	Outcome Outcome
	// Text is what ssh said, one line, for the admin; empty if Accepted.
	Text string
	// methods are those that the host would have gone on with.
	methods []string
}

// Host is a login host.
type Host struct {
	Server  string
	Options []string // words of SSH_OPTIONS
	// Askpass is the program that hands over the password: the agent itself.
	Askpass string
}

// Methods by which a password can be given. One run of ssh uses one of them, so that a wrong password is tried once.
const (
	password    = "password"
	interactive = "keyboard-interactive"
)

// options returns the words that ssh and sshfs both take. What comes first wins in ssh, so that SSH_OPTIONS cannot loosen it by accident.
func (h Host) options(method string) []string {
	out := []string{"-F", "/dev/null"}
	for _, o := range []string{
		"UserKnownHostsFile=" + KnownHosts, "GlobalKnownHostsFile=/dev/null", "StrictHostKeyChecking=yes", "UpdateHostKeys=no", "IdentitiesOnly=yes",
		"IdentityFile=/nonexistent", "PubkeyAuthentication=no", "GSSAPIAuthentication=no", "PreferredAuthentications=" + method, "NumberOfPasswordPrompts=1",
		fmt.Sprintf("ConnectTimeout=%d", int(ConnectTimeout.Seconds())), "ServerAliveInterval=15", "ServerAliveCountMax=3", "LogLevel=ERROR",
	} {
		out = append(out, "-o", o)
	}
	return append(out, h.Options...)
}

// valid refuses servers that ssh would take for something else.
func (h Host) valid() error {
	if h.Server == "" || strings.HasPrefix(h.Server, "-") || strings.ContainsAny(h.Server, " \t\n@/") {
		return fmt.Errorf("SSH_SERVER=%q is no host name", h.Server)
	}
	return nil
}

// Check asks whether a password is a user's. It blocks at most 2*Timeout.
func (h Host) Check(ctx context.Context, user string, secret []byte) Answer {
	return h.eachMethod(func(options []string) Answer {
		// sftp is what each user may have, even one without a shell; it ends at once, as -n gives it nothing to read.
		args := append([]string{"-n", "-T"}, options...)
		args = append(args, "-l", user, "-s", "--", h.Server, "sftp")
		return run(ctx, command{name: "ssh", args: args, secret: secret, env: []string{
			"SSH_ASKPASS=" + h.Askpass, "SSH_ASKPASS_REQUIRE=force", "DISPLAY= ", AskpassEnv + "=1",
		}})
	})
}

// Mount is Check by sshfs: the mount at home is the proof. mountOptions are for its -o; before comes in front of the command line.
func (h Host) Mount(ctx context.Context, before []string, user, home, mountOptions string, secret []byte) Answer {
	return h.eachMethod(func(options []string) Answer {
		args := append([]string{"-o", mountOptions}, options...)
		args = append(args, user+"@"+bracket(h.Server)+":", home)
		return run(ctx, command{before: before, name: "sshfs", args: args, secret: secret})
	})
}

// bracket has sshfs tell the address from the path.
func bracket(server string) string {
	if strings.Contains(server, ":") {
		return "[" + server + "]"
	}
	return server
}

// eachMethod tries with a password, and only if the host does not take passwords so, interactively.
func (h Host) eachMethod(try func(options []string) Answer) Answer {
	if err := h.valid(); err != nil {
		return Answer{Outcome: Broken, Text: err.Error()}
	}
	answer := try(h.options(password))
	if answer.Outcome == Refused && !slices.Contains(answer.methods, password) && slices.Contains(answer.methods, interactive) {
		answer = try(h.options(interactive))
	}
	return answer
}

// command is a program that reads a password, once, from its standard input.
type command struct {
	before []string // another program's command line that runs it
	name   string
	args   []string
	secret []byte
	env    []string
}

// searchDirs are where programs of the image are, whatever PATH somebody gave PAM.
var searchDirs = []string{"/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"}

// Find returns the path of a program of the image; policies may bring their own sshfs in /usr/local/bin.
func Find(name string) (string, error) {
	for _, dir := range searchDirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("the image has no %s", name)
}

// run runs a command and understands its end. Whatever it leaves in the background keeps nothing of ours.
func run(ctx context.Context, c command) Answer {
	program, err := Find(c.name)
	if err != nil {
		return Answer{Outcome: Broken, Text: err.Error()}
	}
	said, err := memoryFile()
	if err != nil {
		return Answer{Outcome: Broken, Text: err.Error()}
	}
	defer said.Close()
	stdin, err := secretPipe(c.secret)
	if err != nil {
		return Answer{Outcome: Broken, Text: err.Error()}
	}
	defer stdin.Close()
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	line := slices.Concat(c.before, []string{program}, c.args)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Dir = "/"
	cmd.Env = append([]string{"LC_ALL=C", "HOME=/", "PATH=" + strings.Join(searchDirs, ":")}, c.env...)
	cmd.Stdin, cmd.Stderr = stdin, said // files, so that nobody waits for what stays in the background
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Run()
	if ctx.Err() != nil {
		return Answer{Outcome: Away, Text: "no answer in time"}
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Answer{Outcome: Broken, Text: err.Error()}
	}
	if err == nil {
		return Answer{Outcome: Accepted}
	}
	text := make([]byte, maxSaid)
	n, err := said.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Answer{Outcome: Broken, Text: err.Error()}
	}
	return Classify(string(text[:n]))
}

// maxSaid bounds what is read of a program's words, in bytes.
const maxSaid = 16 << 10

// memoryFile returns a file without a name.
func memoryFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("ltsp-login", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), "memory"), nil
}

// secretPipe returns the reading end of a pipe with a password and a line end in it, and nothing behind. It fits a pipe's buffer.
func secretPipe(secret []byte) (*os.File, error) {
	if len(secret) > maxSecret || bytes.ContainsAny(secret, "\x00\n") {
		return nil, errors.New("the password is too long or has a line end")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	defer w.Close()
	line := append(bytes.Clone(secret), '\n')
	defer clear(line)
	if _, err := w.Write(line); err != nil {
		r.Close()
		return nil, fmt.Errorf("write to a pipe: %w", err)
	}
	return r, nil
}

// maxSecret is what PAM takes at most (PAM_MAX_RESP_SIZE), in bytes.
const maxSecret = 512

// Askpass is the agent as ssh's askpass: it hands on the line that waits on standard input.
func Askpass(stdin io.Reader, stdout io.Writer) error {
	text, err := io.ReadAll(io.LimitReader(stdin, maxSecret+1))
	defer clear(text)
	if err != nil {
		return fmt.Errorf("read the password: %w", err)
	}
	line, _, ok := bytes.Cut(text, []byte("\n"))
	if !ok {
		return errors.New("no password is left") // asked twice
	}
	_, err = stdout.Write(append(line, '\n'))
	return err
}
