// Package enforce makes a policy state that of a root: it writes /etc/ltsp, runs LTSP's client applets before init starts, and brings a running client
// from one state to another.
package enforce

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/applet"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/policy"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	tree "github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// Config says what is done to what.
type Config struct {
	// Root is the root directory: the new root in the initrd, "/" on a running client.
	Root string
	// Facts are the client's. Server is set from the state.
	Facts  step.Facts
	System step.System
	// Between is called by Boot when initrd-bottom is done, with all variables; nil does nothing.
	Between func(ctx context.Context, values map[string]string) error
	Log     *slog.Logger
}

// StopError is why a boot must not go on: LTSP stops there too.
type StopError struct {
	// Applet is initrd-bottom or init.
	Applet   string
	Failures []applet.Failure
	// Shell tells that the administrator wants a shell then (DEBUG_SHELL).
	Shell bool
}

// Error names the functions and hooks that have failed.
func (e *StopError) Error() string {
	var list []string
	for _, f := range e.Failures {
		list = append(list, describe(e.Applet, f))
	}
	return strings.Join(list, "; ")
}

func describe(name string, f applet.Failure) string {
	return fmt.Sprintf("%s, %s %s: %s", name, f.Step, f.Name, f.Error)
}

// Boot makes a state that of a root before its init starts. Nil stands for no policy: LTSP's defaults are done, and the image's own /etc/ltsp stays. The
// error is a *StopError, or wraps applet.ErrEvaluate with file and line of a configuration that cannot be evaluated. The result is that of the last applet.
func Boot(ctx context.Context, cfg Config, state *policy.State) (result applet.Result, err error) {
	if state != nil {
		if err := policy.Install(cfg.Root, state.Etc()); err != nil {
			return applet.Result{}, err
		}
	}
	for _, name := range []string{applet.InitrdBottom, applet.Init} {
		result, err = applet.Run(ctx, cfg.applet(name, state))
		if err != nil {
			return result, fmt.Errorf("%s: %w", name, err)
		}
		cfg.remark(result)
		if len(result.Failures) > 0 {
			return result, &StopError{Applet: name, Failures: result.Failures, Shell: result.DebugShell}
		}
		if name == applet.InitrdBottom && cfg.Between != nil {
			if err := cfg.Between(ctx, result.Final); err != nil {
				return result, err
			}
		}
	}
	return result, nil
}

// Outcome is what came of Live.
type Outcome struct {
	// Pending needs a reboot, Errors could not be done.
	Pending, Errors []string
}

// Live brings a running client to a state. Before is the one in force, nil for none. On error it is in force still.
func Live(ctx context.Context, cfg Config, before, state *policy.State) (Outcome, error) {
	previous, err := applet.Load(cfg.Root, applet.Init)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Outcome{}, fmt.Errorf("read what the boot has done: %w", err)
	}
	if err := policy.Install(cfg.Root, state.Etc()); err != nil {
		return Outcome{}, err
	}
	r, err := applet.Reapply(ctx, cfg.applet(applet.Init, state), previous)
	if err != nil {
		return Outcome{}, errors.Join(err, restore(cfg.Root, before))
	}
	cfg.remark(r)
	out := Outcome{Pending: r.Pending}
	for _, f := range r.Failures {
		out.Errors = append(out.Errors, describe(applet.Init, f))
	}
	return out, nil
}

// restore takes the files of a state that is not in force back.
func restore(root string, before *policy.State) error {
	files := tree.Tree{}
	if before != nil {
		files = before.Etc()
	}
	return policy.Install(root, files)
}

// applet is how one applet is run for a state.
func (cfg Config) applet(name string, state *policy.State) applet.Config {
	out := applet.Config{
		Root: cfg.Root, Name: name, Facts: cfg.Facts, System: cfg.System, Log: cfg.Log, PAM: login{cfg.Log}, RemoteApps: login{cfg.Log},
	}
	if state == nil {
		return out
	}
	out.Facts.Server, out.Facts.ServerPort, out.Users = state.Server, state.ServerPort, state.Users()
	for i, l := range state.Layers {
		out.Layers = append(out.Layers, applet.Layer{Scope: l.Scope, Tree: state.Trees[i]})
	}
	return out
}

func (cfg Config) remark(r applet.Result) {
	for _, text := range r.Remarks {
		cfg.Log.Warn("ltsp.conf", "applet", r.Name, "remark", text)
	}
}
