package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/sessions"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Desktop is what a program needs to show a window to somebody.
type Desktop struct {
	UID, GID uint32
	Groups   []uint32
	Env      []string
}

const messageTitle = "Message from the administrator"

// message shows a text on all terminals and to everybody at a desktop. It is done if somebody could see it.
func (r *Runner) message(ctx context.Context, text string, result *agentproto.Result) error {
	text = plain(text)
	if text == "" {
		return errors.New("the message is empty")
	}
	var shown []string
	errs := []error{}
	if exit, err := r.cfg.Start(ctx, Program{Paths: wall, Input: text + "\n"}); err != nil || exit.Code != 0 {
		errs = append(errs, fmt.Errorf("on terminals: %w", because(exit, err)))
	} else {
		shown = append(shown, "on terminals")
	}
	for _, l := range r.cfg.Logins() {
		if !l.Graphical() {
			continue
		}
		if err := r.window(ctx, l, text); err != nil {
			errs = append(errs, fmt.Errorf("to %s: %w", l.User, err))
			continue
		}
		shown = append(shown, "to "+l.User)
	}
	if len(shown) == 0 {
		return fmt.Errorf("the message could not be shown: %w", errors.Join(errs...))
	}
	result.Output = "shown " + strings.Join(shown, ", ")
	for _, err := range errs {
		result.Output += fmt.Sprintf("\nnot %v", err)
	}
	return nil
}

// window shows a text at a desktop as its user: as a notification, which does not wait for an answer, else in a window that stays for a while.
func (r *Runner) window(ctx context.Context, l sessions.Login, text string) error {
	d, err := r.cfg.Desktop(l)
	if err != nil {
		return err
	}
	exit, err := r.cfg.Start(ctx, Program{Paths: notifySend, As: &d, Args: []string{"--urgency=critical", "--", messageTitle, markup(text)}})
	if err == nil && exit.Code == 0 {
		return nil
	}
	exit, err = r.cfg.Start(ctx, Program{
		Paths: zenity, As: &d, Args: []string{"--info", "--timeout=3600", "--no-markup", "--no-wrap", "--title=" + messageTitle, "--text=" + text}, Leave: true,
	})
	if err != nil || exit.Code != 0 {
		return because(exit, err)
	}
	return nil
}

func because(exit Exit, err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("exit code %d: %s", exit.Code, firstLine(exit.Output))
}

// plain makes a text harmless for terminals: line ends and tabs are the only control characters that stay.
func plain(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), agentproto.MaxCommandText)], "?")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, text))
}

// markup quotes what a notification would take for markup.
func markup(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}
