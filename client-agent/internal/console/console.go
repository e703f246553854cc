// Package console writes the agent's messages where somebody in front of the PC, or reading the kernel's log, sees them: one plain line each.
package console

import (
	"context"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
)

// Config describes where lines go.
type Config struct {
	Writer io.Writer
	// Prefix begins each line, such as "ltsp-agent".
	Prefix string
	// Level is the least that is written; nil means Info.
	Level slog.Leveler
	// Kernel puts the syslog priority in front, as /dev/kmsg takes it ("<4>").
	Kernel bool
}

// NewLogger returns a logger that writes "PREFIX: message key=value". It is safe for concurrent use; each record is one Write.
func NewLogger(cfg Config) *slog.Logger {
	if cfg.Level == nil {
		cfg.Level = slog.LevelInfo
	}
	return slog.New(&handler{cfg: cfg, mu: new(sync.Mutex)})
}

type handler struct {
	cfg   Config
	mu    *sync.Mutex
	attrs string
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.cfg.Level.Level()
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	if h.cfg.Kernel {
		b.WriteString(priority(r.Level))
	}
	b.WriteString(h.cfg.Prefix)
	b.WriteString(": ")
	b.WriteString(clean(r.Message))
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool { appendAttr(&b, a); return true })
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.cfg.Writer, b.String())
	return err
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	b.WriteString(h.attrs)
	for _, a := range attrs {
		appendAttr(&b, a)
	}
	return &handler{cfg: h.cfg, mu: h.mu, attrs: b.String()}
}

// WithGroup is not of use here: keys stay as they are.
func (h *handler) WithGroup(string) slog.Handler { return h }

func appendAttr(b *strings.Builder, a slog.Attr) {
	b.WriteByte(' ')
	b.WriteString(a.Key)
	b.WriteByte('=')
	v := a.Value.Resolve().String()
	if v == "" || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r == '"' || r == 0x7f }) {
		v = strconv.Quote(v)
	}
	b.WriteString(v)
}

// clean keeps a message on its line.
func clean(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }

// priority is the syslog priority of the daemon facility, which tells the kernel's log who speaks.
func priority(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "<27>"
	case level >= slog.LevelWarn:
		return "<28>"
	case level >= slog.LevelInfo:
		return "<30>"
	}
	return "<31>"
}
