package modules

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"syscall"
)

// Config is what a Loader works with.
type Config struct {
	Index *Index
	// Insert hands the file at path (below the index's directory) with its parameters to the kernel. It must return nil for a module that
	// is there already.
	Insert func(path, params string) error
	// Params returns the parameters of a module; nil means none.
	Params func(name string) string
	// Blacklist names modules that no alias may load, as modprobe.blacklist= does. Loading by name still works.
	Blacklist []string
	// Log may be nil.
	Log *slog.Logger
}

// Loader loads modules once each. It is not safe for concurrent use.
type Loader struct {
	cfg       Config
	done      map[string]error
	answered  map[string]bool
	blacklist []string
}

// NewLoader returns a Loader. Index and Insert are required.
func NewLoader(cfg Config) *Loader {
	if cfg.Params == nil {
		cfg.Params = func(string) string { return "" }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &Loader{cfg: cfg, done: map[string]error{}, answered: map[string]bool{}}
	for _, name := range cfg.Blacklist {
		l.blacklist = append(l.blacklist, normalize(name))
	}
	return l
}

// Load loads a module by name with everything that it needs. It is no error if the kernel has it built in.
// The error wraps ErrNotFound if a file is missing.
func (l *Loader) Load(name string) error {
	steps, err := l.cfg.Index.Order(name)
	if err != nil {
		return fmt.Errorf("load kernel module %s: %w", name, err)
	}
	for _, s := range steps {
		if err := l.insert(s); err != nil && !s.Optional {
			return fmt.Errorf("load kernel module %s: %w", name, err)
		}
	}
	return nil
}

func (l *Loader) insert(s Step) error {
	if err, seen := l.done[s.Name]; seen {
		return err
	}
	err := l.cfg.Insert(s.Path, l.cfg.Params(s.Name))
	if err != nil {
		level := slog.LevelWarn
		if errors.Is(err, syscall.ENODEV) { // "not for this machine", as accelerated ciphers say
			level = slog.LevelDebug
		}
		err = fmt.Errorf("insert %s: %w", s.Path, err)
		l.cfg.Log.Log(context.Background(), level, "kernel module refused", "module", s.Name, "err", err)
	}
	l.done[s.Name] = err
	return err
}

// Answer loads the modules that match a modalias, unless they are blacklisted. It returns how many modules work now that did not before.
// A module that fails is logged and otherwise passed over: one bad driver must not stop a PC whose NIC has another. Each modalias is
// answered once.
func (l *Loader) Answer(modalias string) int {
	if l.answered[modalias] {
		return 0
	}
	l.answered[modalias] = true
	before := l.working()
	for _, name := range l.cfg.Index.Match(modalias) {
		if slices.Contains(l.blacklist, name) {
			continue
		}
		if err := l.Load(name); errors.Is(err, ErrNotFound) {
			l.cfg.Log.Warn("kernel module left out", "module", name, "err", err)
		}
	}
	return l.working() - before
}

func (l *Loader) working() int {
	n := 0
	for _, err := range l.done {
		if err == nil {
			n++
		}
	}
	return n
}
