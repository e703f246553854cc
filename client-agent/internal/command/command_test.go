package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/sessions"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const id = "c0ffee00c0ffee00c0ffee00c0ffee00"

// client is a PC whose programs end as a test says.
type client struct {
	started []string
	exits   map[string]Exit  // by the program's name; none: 0
	fails   map[string]error // by the program's name
	kinds   []string
	logins  []sessions.Login
	forced  string
}

func (c *client) start(_ context.Context, p Program) (Exit, error) {
	name := filepath.Base(p.Paths[0])
	line := strings.TrimSpace(name + " " + strings.Join(p.Args, " "))
	if p.As != nil {
		line = fmt.Sprintf("%d: %s", p.As.UID, line)
	}
	if p.Input != "" {
		line += " < " + p.Input
	}
	c.started = append(c.started, line)
	return c.exits[name], c.fails[name]
}

func (c *client) runner() *Runner {
	return New(Config{
		Allowed: func() ([]string, bool) { return c.kinds, c.kinds != nil },
		Start:   c.start,
		Logins:  func() []sessions.Login { return c.logins },
		Desktop: func(l sessions.Login) (Desktop, error) {
			if l.Display == "" {
				return Desktop{}, errNoDesktop
			}
			return Desktop{UID: l.UID}, nil
		},
		Force: func(off bool) error { c.forced = fmt.Sprint("off=", off); return nil },
		Log:   slog.New(slog.DiscardHandler),
	})
}

var all = []string{"reboot", "poweroff", "message", "logs", "run"}

func TestDo(t *testing.T) {
	t.Parallel()
	anna := sessions.Login{User: "anna", UID: 1001, Type: "x11", Display: ":0"}
	bert := sessions.Login{User: "bert", UID: 1002, Type: "wayland"}
	carl := sessions.Login{User: "carl", UID: 1003, Type: "tty"}
	gone := errors.New("start: no such file")
	for _, tt := range []struct {
		name    string
		client  client
		command agentproto.Command
		started []string
		want    agentproto.Result // the error is a part of what is wanted
		forced  string
	}{
		{"reboot", client{kinds: all}, agentproto.Command{Kind: "reboot"}, []string{"systemctl reboot"}, agentproto.Result{}, ""},
		{"poweroff without a policy", client{}, agentproto.Command{Kind: "poweroff"}, []string{"systemctl poweroff"}, agentproto.Result{}, ""},
		{"reboot while systemd hangs", client{kinds: all, fails: map[string]error{"systemctl": context.DeadlineExceeded}}, agentproto.Command{Kind: "reboot"},
			[]string{"systemctl reboot"}, agentproto.Result{Output: "systemctl reboot: context deadline exceeded; the PC ends without it"}, "off=false"},
		{"poweroff that systemd refuses", client{kinds: all, exits: map[string]Exit{"systemctl": {Code: 1, Output: []byte("no bus\nx")}}}, agentproto.Command{Kind: "poweroff"},
			[]string{"systemctl poweroff"}, agentproto.Result{Output: "systemctl poweroff: exit code 1: no bus; the PC ends without it"}, "off=true"},

		{"logs", client{kinds: all, exits: map[string]Exit{"journalctl": {Output: []byte("a\x1b[1mb\n")}}}, agentproto.Command{Kind: "logs"},
			[]string{"journalctl --no-pager --quiet --lines=300 --output=short-iso"}, agentproto.Result{Output: "a [1mb\n"}, ""},
		{"logs of units", client{kinds: all}, agentproto.Command{Kind: "logs", Args: []string{"cups.service", "getty@tty1"}},
			[]string{"journalctl --no-pager --quiet --lines=300 --output=short-iso --unit=cups.service --unit=getty@tty1"}, agentproto.Result{}, ""},
		{"logs of no unit", client{kinds: all}, agentproto.Command{Kind: "logs", Args: []string{"cups", "a b"}}, nil, agentproto.Result{Error: `"a b" is not the name of a unit`}, ""},
		{"logs that fail", client{kinds: all, exits: map[string]Exit{"journalctl": {Code: 1, Output: []byte("no journal\n")}}}, agentproto.Command{Kind: "logs"},
			[]string{"journalctl --no-pager --quiet --lines=300 --output=short-iso"}, agentproto.Result{Output: "no journal\n", Error: "journalctl has ended with exit code 1"}, ""},

		{"run", client{kinds: all, exits: map[string]Exit{"false": {Code: 3, Output: []byte("out")}}}, agentproto.Command{Kind: "run", Args: []string{"false", "-x", "a b"}},
			[]string{"false -x a b"}, agentproto.Result{Output: "out", Exit: 3}, ""},
		{"run nothing", client{kinds: all}, agentproto.Command{Kind: "run"}, nil, agentproto.Result{Error: "no program is named"}, ""},
		{"run where it is not allowed", client{kinds: all[:4]}, agentproto.Command{Kind: "run", Args: []string{"id"}}, nil, agentproto.Result{Error: `policy does not allow "run"`}, ""},
		{"run without a policy", client{}, agentproto.Command{Kind: "run", Args: []string{"id"}}, nil, agentproto.Result{Error: "this client has no policy"}, ""},
		{"reboot where it is not allowed", client{kinds: []string{}}, agentproto.Command{Kind: "reboot"}, nil, agentproto.Result{Error: `policy does not allow "reboot"`}, ""},
		{"an unknown kind", client{kinds: []string{"dance"}}, agentproto.Command{Kind: "dance"}, nil, agentproto.Result{Error: `this agent does not know "dance"`}, ""},
		{"malformed", client{kinds: all}, agentproto.Command{Kind: "message", Text: "a\x00b"}, nil, agentproto.Result{Error: "zero byte"}, ""},

		{"message", client{kinds: all, logins: []sessions.Login{anna, carl}}, agentproto.Command{Kind: "message", Text: " In 5 minutes:\n<off> \x1b[2J\u202e\r\n"},
			[]string{"wall < In 5 minutes:\n<off> [2J\n", "1001: notify-send --urgency=critical -- " + messageTitle + " In 5 minutes:\n&lt;off&gt; [2J"},
			agentproto.Result{Output: "shown on terminals, to anna"}, ""},
		{"message without notifications", client{kinds: all, logins: []sessions.Login{anna}, fails: map[string]error{"wall": gone, "notify-send": gone}},
			agentproto.Command{Kind: "message", Text: "-x"},
			[]string{"wall < -x\n", "1001: notify-send --urgency=critical -- " + messageTitle + " -x",
				"1001: zenity --info --timeout=3600 --no-markup --no-wrap --title=" + messageTitle + " --text=-x"},
			agentproto.Result{Output: "shown to anna\nnot on terminals: start: no such file"}, ""},
		{"message to nobody", client{kinds: all, logins: []sessions.Login{bert}, exits: map[string]Exit{"wall": {Code: 1}}}, agentproto.Command{Kind: "message", Text: "x"},
			[]string{"wall < x\n"}, agentproto.Result{Error: "the message could not be shown"}, ""},
		{"message without a text", client{kinds: all}, agentproto.Command{Kind: "message", Text: "\x07 "}, nil, agentproto.Result{Error: "empty"}, ""},
	} {
		c := tt.client
		tt.command.ID, tt.want.ID = id, id
		got, then := c.runner().Do(t.Context(), tt.command)
		if then != nil {
			if err := then(); err != nil {
				t.Error(err)
			}
		}
		if (got.Error == "") != (tt.want.Error == "") || !strings.Contains(got.Error, tt.want.Error) {
			t.Errorf("%s: error %q, want %q", tt.name, got.Error, tt.want.Error)
		}
		got.Error = tt.want.Error
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
		if diff := cmp.Diff(tt.started, c.started); diff != "" {
			t.Errorf("%s: started %s", tt.name, diff)
		}
		if c.forced != tt.forced {
			t.Errorf("%s: forced %q, want %q", tt.name, c.forced, tt.forced)
		}
	}
}

func TestIsUnit(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"cups": true, "ltsp-agent.service": true, `dev-disk-by\x2duuid.device`: true, "user@1000.service": true, "ssh*": true,
		"": false, "a b": false, "a\n": false, "a/b": false, "$(id)": false, strings.Repeat("a", 256): false, "ü": false,
	} {
		if isUnit(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

// sh is a shell script as a Program.
func sh(script string) Program {
	return Program{Paths: []string{"/nowhere/sh", "/bin/sh"}, Args: []string{"-c", script}}
}

func TestStart(t *testing.T) {
	t.Parallel()
	fed := sh("cat; pwd; echo $LC_ALL >&2; exit 7")
	fed.Input = "input "
	exit, err := Start(t.Context(), fed)
	if err != nil || exit.Code != 7 || string(exit.Output) != "input /\nC.UTF-8\n" {
		t.Errorf("got %d %q, %v", exit.Code, exit.Output, err)
	}
	deaf := sh("exec 0<&-; kill -TERM $$")
	deaf.Input = strings.Repeat("x", 1<<20)
	if exit, err := Start(t.Context(), deaf); err != nil || exit.Code != -1 {
		t.Errorf("got %d, %v", exit.Code, err)
	}
	if _, err := Start(t.Context(), Program{Paths: []string{"/nowhere/at/all"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	exit, err = Start(t.Context(), sh("i=0; while [ $i -lt 5000 ]; do echo line-$i-0123456789-0123456789; i=$((i+1)); done"))
	if err != nil || len(exit.Output) != keep || !strings.HasSuffix(string(exit.Output), "line-4999-0123456789-0123456789\n") {
		t.Errorf("%d bytes of output, %v", len(exit.Output), err)
	}
}

// TestStartKillsAll runs into its time with a child that holds the output.
func TestStartKillsAll(t *testing.T) {
	t.Parallel()
	over := errors.New("time is over")
	limit, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	ctx, cancel := context.WithCancelCause(limit)
	pipe := filepath.Join(t.TempDir(), "started")
	done := make(chan struct{})
	var exit Exit
	var err error
	go func() {
		defer close(done)
		exit, err = Start(ctx, sh("echo begun; sleep 1000 & echo $! > "+pipe+".new; mv "+pipe+".new "+pipe+"; wait"))
	}()
	pid := awaitNumber(limit, t, pipe)
	cancel(over)
	<-done
	if !errors.Is(err, over) || exit.Code != -1 || string(exit.Output) != "begun\n" {
		t.Errorf("got %d %q, %v", exit.Code, exit.Output, err)
	}
	for state := processState(t, pid); state != "" && state != "Z"; state = processState(t, pid) {
		if limit.Err() != nil {
			t.Fatalf("the child is in state %s", state)
		}
	}
}

// awaitNumber reads a number from a file that will appear.
func awaitNumber(ctx context.Context, t *testing.T, path string) int {
	t.Helper()
	for ctx.Err() == nil {
		if data, err := os.ReadFile(path); err == nil {
			n, err := strconv.Atoi(strings.TrimSpace(string(data)))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s does not appear", path)
	return 0
}

// processState is the letter of a process's state, empty if it is gone.
func processState(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return rest[:1]
}

func TestStartLeaves(t *testing.T) {
	t.Parallel()
	p := sh("exec sleep 4")
	p.Leave = true
	begin := time.Now()
	if exit, err := Start(t.Context(), p); err != nil || exit.Code != 0 {
		t.Errorf("got %+v, %v", exit, err)
	}
	if took := time.Since(begin); took < leaveAfter {
		t.Errorf("it was left after %v", took)
	}
	p = sh("exit 4")
	p.Leave = true
	if exit, err := Start(t.Context(), p); err != nil || exit.Code != 4 {
		t.Errorf("one that fails at once: %+v, %v", exit, err)
	}
}

func TestFindDesktop(t *testing.T) {
	t.Parallel()
	proc := t.TempDir()
	add := func(pid, environ, status string) {
		dir := filepath.Join(proc, pid)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"environ": environ, "status": status} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	me := sessions.Login{User: "anna", UID: uint32(os.Getuid()), Type: "x11", Display: ":0"}
	add("10", "LANG=C\x00", "Groups:\t4 24 \n")
	add("11", "DISPLAY=:1\x00", "Groups:\t4 24 \n")
	add("self", "DISPLAY=:0\x00", "Groups:\n")
	if _, err := FindDesktop(proc, me); !errors.Is(err, errNoDesktop) {
		t.Errorf("got %v", err)
	}
	add("12", "LD_PRELOAD=/tmp/x.so\x00DISPLAY=:0\x00XAUTHORITY=/run/x\x00WAYLAND_DISPLAY=\x00", "Name: x\nGroups:\t4 24 \n")
	got, err := FindDesktop(proc, me)
	want := Desktop{UID: me.UID, GID: uint32(os.Getgid()), Groups: []uint32{4, 24},
		Env: []string{"DISPLAY=:0", "XAUTHORITY=/run/x", "PATH=" + path, "USER=anna", "LOGNAME=anna"}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	other := me
	other.UID++
	if _, err := FindDesktop(proc, other); !errors.Is(err, errNoDesktop) {
		t.Errorf("another's desktop was found: %v", err)
	}
}
