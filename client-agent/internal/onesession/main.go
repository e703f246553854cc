package onesession

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
)

// Main is the agent as a session's wrapper: it runs a command as the caller's only session.
func Main(ctx context.Context, command []string) int {
	home, err := os.UserHomeDir()
	if err != nil || os.Geteuid() == 0 {
		fmt.Fprintln(os.Stderr, "ltsp-agent: session is for users with a home, not for root")
		return 2
	}
	s := &Session{Home: home, Here: here(), Now: time.Now, Ask: ask, End: func() {
		// As the user this reaches his processes and nobody else's; the caller is spared.
		_ = unix.Kill(-1, unix.SIGTERM)
	}}
	return s.Run(ctx, command)
}

// here tells which client this is; what is not known stays empty.
func here() Here {
	var h Here
	h.Hostname, _ = os.Hostname()
	root, err := os.OpenRoot(rundir.Dir)
	if err != nil {
		return h
	}
	defer root.Close()
	var state rundir.BootState
	if rundir.Read(root, rundir.Boot, &state) == nil {
		h.Addr, h.MAC = state.Addr, state.MAC
	}
	return h
}

// dialogs are programs that ask a question, the best first. Exit code 0 is yes.
var dialogs = []struct {
	name string
	args func(title, text string) []string
}{
	{"zenity", func(title, text string) []string {
		return []string{"--question", "--no-markup", "--title", title, "--text", text}
	}},
	{"kdialog", func(title, text string) []string { return []string{"--title", title, "--yesno", text} }},
	{"xmessage", func(title, text string) []string {
		return []string{"-center", "-title", title, "-buttons", "Yes:0,No:1", text}
	}},
}

// ask asks by the first program of the image that can. Where none can, the later session wins without a question.
func ask(title, text string) bool {
	for _, d := range dialogs {
		program, err := exec.LookPath(d.name)
		if err != nil {
			continue
		}
		err = exec.Command(program, d.args(title, text)...).Run()
		exit, answered := errors.AsType[*exec.ExitError](err)
		return err == nil || answered && exit.ExitCode() > 1 // it could not ask
	}
	return true
}
