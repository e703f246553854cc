// Package command carries out what an administrator has a client do: restart, switch off, show a message, give the journal's end, run a program. Who may
// ask for what is decided before; what the site's policy does not list is refused here once more.
package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/sessions"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Config is what a Runner works with. All fields are required.
type Config struct {
	// Allowed returns the kinds that the policy in force lists; known is false while there is none.
	Allowed func() (kinds []string, known bool)
	// Start runs a program to its end.
	Start func(context.Context, Program) (Exit, error)
	// Logins are who sits there.
	Logins func() []sessions.Login
	// Desktop is the environment of a login's desktop: variables that programs need to show a window, and its user's groups.
	Desktop func(sessions.Login) (Desktop, error)
	// Force restarts the PC, or switches it off, without asking any program. It returns only on error.
	Force func(off bool) error
	Log   *slog.Logger
}

// Runner carries out commands. It is safe for concurrent use.
type Runner struct {
	cfg Config
}

// New returns a Runner.
func New(cfg Config) *Runner { return &Runner{cfg: cfg} }

// systemctlTimeout is how long systemd may take to accept the end. It does not answer while the root connection is down.
const systemctlTimeout = 15 * time.Second

// Do carries a command out, within its time. A non-nil then must be called when the result has been told: the PC ends with it.
func (r *Runner) Do(ctx context.Context, c agentproto.Command) (result agentproto.Result, then func() error) {
	result.ID = c.ID
	r.cfg.Log.Info("command", "kind", c.Kind, "id", c.ID, "args", strings.Join(c.Args, " "))
	err := r.check(c)
	if err == nil {
		limited, cancel := context.WithTimeoutCause(ctx, c.Limit(), fmt.Errorf("it was not done after %v", c.Limit()))
		defer cancel()
		then, err = r.do(limited, c, &result)
	}
	if err != nil {
		result.Error = clip(err.Error(), agentproto.MaxResultError)
		r.cfg.Log.Warn("command not carried out", "kind", c.Kind, "id", c.ID, "err", err)
	}
	return result, then
}

// check refuses what is malformed or not allowed.
func (r *Runner) check(c agentproto.Command) error {
	if err := c.Validate(); err != nil {
		return err
	}
	kinds, known := r.cfg.Allowed()
	switch {
	case known && !slices.Contains(kinds, c.Kind):
		return fmt.Errorf("the site's policy does not allow %q", c.Kind)
	case !known && c.Kind == agentproto.CommandRun:
		return errors.New("this client has no policy, and without one no programs are run")
	}
	return nil
}

func (r *Runner) do(ctx context.Context, c agentproto.Command, result *agentproto.Result) (func() error, error) {
	switch c.Kind {
	case agentproto.CommandReboot:
		return r.end(ctx, "reboot", false, result), nil
	case agentproto.CommandPowerOff:
		return r.end(ctx, "poweroff", true, result), nil
	case agentproto.CommandMessage:
		return nil, r.message(ctx, c.Text, result)
	case agentproto.CommandLogs:
		return nil, r.logs(ctx, c.Args, result)
	case agentproto.CommandRun:
		return nil, r.run(ctx, c.Args, result)
	}
	return nil, fmt.Errorf("this agent does not know %q", c.Kind)
}

// end asks systemd to stop everything. If it does not take that, the PC ends hard.
func (r *Runner) end(ctx context.Context, verb string, off bool, result *agentproto.Result) func() error {
	ctx, cancel := context.WithTimeout(ctx, systemctlTimeout)
	defer cancel()
	exit, err := r.cfg.Start(ctx, Program{Paths: systemctl, Args: []string{verb}})
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("exit code %d: %s", exit.Code, firstLine(exit.Output))
	}
	if err == nil {
		return nil
	}
	result.Output = fmt.Sprintf("systemctl %s: %v; the PC ends without it", verb, err)
	return func() error { return r.cfg.Force(off) }
}

// logLines is how much of the journal is given; MaxOutput cuts it further.
const logLines = "300"

func (r *Runner) logs(ctx context.Context, units []string, result *agentproto.Result) error {
	args := []string{"--no-pager", "--quiet", "--lines=" + logLines, "--output=short-iso"}
	for _, u := range units {
		if !isUnit(u) {
			return fmt.Errorf("%.80q is not the name of a unit", u)
		}
		args = append(args, "--unit="+u)
	}
	exit, err := r.cfg.Start(ctx, Program{Paths: journalctl, Args: args})
	result.Output = agentproto.ClipOutput(exit.Output)
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("journalctl has ended with exit code %d", exit.Code)
	}
	return err
}

// isUnit tells whether s can be the name of a unit (systemd.unit(5)), or a pattern of some.
func isUnit(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(`:-_.\@*?`, r))
	})
}

func (r *Runner) run(ctx context.Context, args []string, result *agentproto.Result) error {
	if len(args) == 0 || args[0] == "" {
		return errors.New("no program is named")
	}
	exit, err := r.cfg.Start(ctx, Program{Paths: candidates(args[0]), Args: args[1:]})
	result.Output, result.Exit = agentproto.ClipOutput(exit.Output), exit.Code
	return err
}

// candidates are where a program is looked for.
func candidates(name string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var list []string
	for dir := range strings.SplitSeq(path, ":") {
		list = append(list, dir+"/"+name)
	}
	return list
}

// Where the image's programs are.
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

var (
	systemctl  = []string{"/usr/bin/systemctl", "/bin/systemctl"}
	journalctl = []string{"/usr/bin/journalctl", "/bin/journalctl"}
	wall       = []string{"/usr/bin/wall"}
	notifySend = []string{"/usr/bin/notify-send"}
	zenity     = []string{"/usr/bin/zenity"}
)

func clip(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "") }

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return clip(line, 200)
}
