// Package shell runs scripts in one long-lived shell, the root's own /bin/sh, so that variables and functions stay from one script to the next. It tells the
// value of each variable afterwards. Scripts are as trusted as the root itself; what is bounded is their time, not their power.
package shell

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
)

// Config says where the shell lives.
type Config struct {
	// Root is where it is chrooted to, unless that is "/".
	Root rootdir.Root
	// Dir is a directory below Root for the scripts, made with mode 0700.
	Dir string
	// Program is the shell with arguments; nil means /bin/sh.
	Program []string
	// Output receives each line that scripts print, without the line end, from one goroutine; nil discards them.
	Output func(line string)
}

// Limits of what a script says.
const (
	maxReply  = 16 << 20 // all variables, in bytes
	maxOutput = 4 << 20  // what scripts print, in bytes; the rest is lost
	maxTail   = 2048     // of the output, for errors
)

// ErrEnded is wrapped by the errors of a shell that has ended: a script has an error of syntax, called exit or die, or took too long. Nothing can be run any more.
var ErrEnded = errors.New("the shell has ended")

// Shell is a running shell. It is not safe for concurrent use.
type Shell struct {
	cfg      Config
	cmd      *exec.Cmd
	commands *os.File
	replies  *os.File
	reader   *bufio.Reader
	output   *output
	ended    chan struct{} // closed when the process is gone
}

// loop reads commands, one a line, from descriptor 8 and leaves 9 for replies and 7 for what is printed, wherever a script sends that later. The parent gives 3
// and 4, which scripts use themselves.
const loop = `exec 7>&2 8<&3 9>&4 3<&- 4>&-
_ltsp_source() { . "$1"; }
while IFS= read -r _ltsp_command <&8; do eval "$_ltsp_command"; done`

// Start starts the shell and gives it its first script, Prelude. The shell ends with Close.
func Start(ctx context.Context, cfg Config) (*Shell, error) {
	program := cfg.Program
	if program == nil {
		program = []string{"/bin/sh"}
	}
	if err := cfg.Root.MkdirAll(path.Dir(cfg.Dir), 0o755); err != nil {
		return nil, err
	}
	if err := cfg.Root.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	s := &Shell{cfg: cfg, ended: make(chan struct{})}
	if err := s.start(program); err != nil {
		return nil, fmt.Errorf("start %s: %w", strings.Join(program, " "), err)
	}
	if err := s.Run(ctx, "prelude", Prelude); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Shell) start(program []string) error {
	var files []*os.File
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err == nil {
			files = append(files, r, w)
		}
		return r, w, err
	}
	closeAll := func() {
		for _, f := range files {
			f.Close()
		}
	}
	commandsR, commandsW, err1 := pipe()
	repliesR, repliesW, err2 := pipe()
	outputR, outputW, err3 := pipe()
	if err := errors.Join(err1, err2, err3); err != nil {
		closeAll()
		return err
	}
	s.cmd = &exec.Cmd{
		Path: program[0], Args: append(program, "-c", loop, "ltsp"), Dir: "/",
		Env:    []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=linux", "LANG=C.UTF-8"},
		Stdout: outputW, Stderr: outputW, ExtraFiles: []*os.File{commandsR, repliesW},
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	if s.cfg.Root != "/" {
		s.cmd.SysProcAttr.Chroot = string(s.cfg.Root)
	}
	if err := s.cmd.Start(); err != nil {
		closeAll()
		return err
	}
	commandsR.Close()
	repliesW.Close()
	outputW.Close()
	s.commands, s.replies, s.reader = commandsW, repliesR, bufio.NewReader(repliesR)
	s.output = collect(outputR, s.cfg.Output)
	go func() {
		_ = s.cmd.Wait() // how it ended is of no interest: it must not end
		close(s.ended)
		s.wake()
	}()
	return nil
}

// wake ends a read of a reply that will not come: a process that the shell left behind may hold the pipe open.
func (s *Shell) wake() { _ = s.replies.SetReadDeadline(time.Unix(1, 0)) }

// Close ends the shell. Processes that its scripts left running go on, but nobody reads any more what they print: a write is an error for them, or ends them.
func (s *Shell) Close() {
	s.commands.Close()
	select {
	case <-s.ended:
	case <-time.After(time.Second):
		s.kill()
		<-s.ended
	}
	s.output.close()
	s.replies.Close()
}

// kill ends the shell and what it started in its process group.
func (s *Shell) kill() { _ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) }

// ExitError is the error of a script whose last command failed.
type ExitError struct {
	Name   string
	Status string // a number
	Output string // the end of what was printed, perhaps not only by this script
}

func (e *ExitError) Error() string {
	text := fmt.Sprintf("%s: exit status %s", e.Name, e.Status)
	if e.Output != "" {
		text += ": " + e.Output
	}
	return text
}

// Run runs a script. Its name is that of the file in the shell's messages. The error is an *ExitError if its last command failed, wraps ErrEnded if the shell is
// gone, or is the context's; a script that goes on when the context ends is killed with the shell.
func (s *Shell) Run(ctx context.Context, name, script string) error {
	_, err := s.run(ctx, name, script)
	return err
}

// Eval runs a script and returns what it wrote to descriptor 9.
func (s *Shell) Eval(ctx context.Context, name, script string) (string, error) {
	return s.run(ctx, name, script)
}

func (s *Shell) run(ctx context.Context, name, script string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	file := path.Join(s.cfg.Dir, name+".sh")
	if err := s.cfg.Root.WriteFileMode(file, script, 0o600); err != nil {
		return "", err
	}
	// The token is told in two halves: the command is a variable too, and set must not print what ends its reply. A shell in which -e is on does not end
	// at a command that is tested.
	half, token := rand.Text(), rand.Text()
	command := fmt.Sprintf("_ltsp_status=0; _ltsp_source %s || _ltsp_status=$?; printf '%%s%%s\\n' %s %s >&7; printf '%%s%%s %%s\\n' %s %s \"$_ltsp_status\" >&9\n",
		Quote(file), half, token, half, token)
	token = half + token
	s.output.expect(token)
	if err := s.replies.SetReadDeadline(time.Time{}); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, s.wake)
	defer stop()
	select {
	case <-s.ended:
		return "", s.death(ctx, name)
	default:
	}
	if _, err := s.commands.WriteString(command); err != nil {
		return "", s.death(ctx, name)
	}
	reply, status, err := s.reply(token)
	if err != nil {
		return "", s.death(ctx, name)
	}
	s.output.settle()
	if status != "0" {
		return reply, &ExitError{Name: name, Status: status, Output: s.output.tail()}
	}
	return reply, nil
}

var errReply = errors.New("no reply")

// reply reads up to the line with the token.
func (s *Shell) reply(token string) (text, status string, err error) {
	var all bytes.Buffer
	for all.Len() < maxReply {
		line, err := s.reader.ReadSlice('\n')
		if i := bytes.LastIndex(line, []byte(token+" ")); i >= 0 && err == nil {
			all.Write(line[:i])
			return all.String(), strings.TrimSpace(string(line[i+len(token):])), nil
		}
		all.Write(line)
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return "", "", errReply
		}
	}
	return "", "", errReply
}

// death says why the shell does not answer.
func (s *Shell) death(ctx context.Context, name string) error {
	var cause string
	if ctx.Err() == nil {
		// A shell that ends closes its pipes before it is gone.
		select {
		case <-s.ended:
		case <-time.After(time.Second):
		}
	}
	select {
	case <-s.ended:
		cause = "it ended there"
	default:
		if err := ctx.Err(); err != nil {
			cause = err.Error()
		} else {
			cause = "its answer is too long"
		}
		s.kill()
		<-s.ended
	}
	s.output.settle()
	if tail := s.output.tail(); tail != "" {
		cause += ": " + tail
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w: %s (%w)", name, ErrEnded, cause, err)
	}
	return fmt.Errorf("%s: %w: %s", name, ErrEnded, cause)
}

// Variables returns all variables but arrays and this package's own.
func (s *Shell) Variables(ctx context.Context) (map[string]string, error) {
	text, err := s.run(ctx, "variables", "set >&9\n")
	if err != nil {
		return nil, err
	}
	values := parseVariables(text)
	for name := range values {
		if strings.HasPrefix(name, "_ltsp_") {
			delete(values, name)
		}
	}
	return values, nil
}

// Set gives variables new values.
func (s *Shell) Set(ctx context.Context, values map[string]string) error {
	return s.Run(ctx, "values", Assignments(values))
}

// Functions returns those of the names that the shell knows as a function or command.
func (s *Shell) Functions(ctx context.Context, names []string) ([]string, error) {
	text, err := s.run(ctx, "functions", "for _ltsp_f in "+strings.Join(names, " ")+"; do\ncommand -v \"$_ltsp_f\" >/dev/null 2>&1 && printf '%s\\n' \"$_ltsp_f\" >&9\ndone; :\n")
	return strings.Fields(text), err
}

// Expand has the shell replace $ in a text as in a here-document.
func (s *Shell) Expand(ctx context.Context, text string) (string, error) {
	// A subshell, because a text that does not parse ends the shell that reads it.
	script := "(\n_ltsp_text=" + Quote(inQuotes(text)) + "\neval \"printf '%s' \\\"$_ltsp_text\\\"\" >&9\n)\n"
	out, err := s.run(ctx, "expand", script)
	return strings.TrimRight(out, "\n"), err
}

// inQuotes makes the text of a here-document one of double quotes: there, a quote must be escaped.
func inQuotes(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '"':
			b.WriteString(`\"`)
		case text[i] == '\\' && i+1 < len(text) && text[i+1] == '"':
			b.WriteString(`\\`)
		case text[i] == '\\' && i+1 < len(text):
			b.WriteString(text[i : i+2])
			i++
		default:
			b.WriteByte(text[i])
		}
	}
	return b.String()
}
