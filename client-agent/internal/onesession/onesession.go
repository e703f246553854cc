// Package onesession keeps a user to one graphical session at a time, on whatever clients: programs that share a home get into each other's way. It wraps a
// session's command, as LTSP's session applet does, with the same files in the user's home, so that clients of both kinds see each other.
package onesession

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/spool"
)

// dir holds a file for the session that counts, relative to the user's home. Whoever removes it ends that session.
const dir = ".config/ltsp/session"

// pollEvery is how often the file is looked at; no change in a home on another host tells of itself.
const pollEvery = time.Second

// maxSessions bounds how many others are told of.
const maxSessions = 16

// Here is the client's part of the file.
type Here struct {
	Hostname, Addr, MAC string
}

// Session wraps one session.
type Session struct {
	Home string
	Here Here
	Now  func() time.Time
	// Ask shows a question and tells whether the answer is yes.
	Ask func(title, text string) bool
	// End ends what is left of the user's processes on this client.
	End func()
}

// other is a session elsewhere.
type other struct{ host, since string }

// Run runs the command as the user's only session, until it ends or a later session elsewhere takes over, and returns its exit code. If the user has
// sessions and does not want to end them, the command is not run.
func (s *Session) Run(ctx context.Context, command []string) int {
	others := s.others()
	if len(others) > 0 && !s.Ask("You are already logged in", question(others)) {
		return 0
	}
	mine, err := s.claim()
	if err != nil { // the home is read-only, or full: the user works on
		fmt.Fprintf(os.Stderr, "ltsp-agent: %v\n", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "ltsp-agent: %v\n", err)
		return 127
	}
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if mine != "" && awaitRemoval(mine, ended) {
			cancel()
		}
	}()
	err = cmd.Wait()
	close(ended)
	<-watched
	if mine != "" {
		_ = os.Remove(mine) // it is gone already if another session took over
	}
	s.End()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(exit.ExitCode(), 1)
	}
	return 0
}

// awaitRemoval returns true when a file is gone, false when ended is closed. A home that does not answer is not gone.
func awaitRemoval(name string, ended <-chan struct{}) bool {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
				return true
			}
		case <-ended:
			return false
		}
	}
}

// others reads which sessions there are.
func (s *Session) others() []other {
	entries, err := os.ReadDir(filepath.Join(s.Home, dir))
	if err != nil {
		return nil
	}
	var out []other
	for _, e := range entries[:min(len(entries), maxSessions)] {
		text, err := os.ReadFile(filepath.Join(s.Home, dir, e.Name()))
		if err == nil {
			out = append(out, other{host: value(string(text), "HOSTNAME"), since: spool.Clean(e.Name(), 32)})
		}
	}
	return out
}

// value finds NAME=VALUE.
func value(text, name string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, name+"="); ok {
			return spool.Clean(strings.Trim(strings.TrimSpace(v), `'"`), 64)
		}
	}
	return "another computer"
}

func question(others []other) string {
	var out strings.Builder
	out.WriteString("You are logged in already:\n")
	for _, o := range others {
		fmt.Fprintf(&out, "  on %s since %s\n", o.host, o.since)
	}
	out.WriteString("\nOnly one session at a time is possible. If you go on, the other one is closed, and work that is not saved there may be lost.\n\nDo you want to go on?")
	return out.String()
}

// claim removes the files of other sessions, which ends them, and leaves ours.
func (s *Session) claim() (string, error) {
	full := filepath.Join(s.Home, dir)
	if err := os.MkdirAll(full, 0o700); err != nil {
		return "", fmt.Errorf("note the session: %w", err)
	}
	entries, err := os.ReadDir(full)
	if err != nil {
		return "", fmt.Errorf("note the session: %w", err)
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(full, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("end the other session: %w", err)
		}
	}
	name := filepath.Join(full, s.Now().Format("20060102-150405"))
	text := fmt.Sprintf("HOSTNAME=%s\nIP_ADDRESS=%s\nMAC_ADDRESS=%s\n", plain(s.Here.Hostname), plain(s.Here.Addr), plain(s.Here.MAC))
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("note the session: %w", err)
	}
	return name, nil
}

// plain keeps what a shell takes as one word: LTSP's clients read the file with one.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(".:-_/", r) {
			return r
		}
		return -1
	}, text)
}
