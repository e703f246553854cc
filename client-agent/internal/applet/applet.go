// Package applet runs LTSP's client applets "initrd-bottom" and "init" on a root: it evaluates ltsp.conf with the root's own shell, runs the hooks and
// drop-in scripts there, and the steps in between in Go. It can do the same again on a running client for what may change there.
//
// A caller in the initrd must have mounted /dev, /proc, /sys and /run below the root (bind mounts of the initrd's own, MS_BIND|MS_REC, shared with it):
// scripts need them, and what a step writes to /run must be what init finds there. What scripts mount below the root stays mounted.
package applet

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// Names of applets.
const (
	InitrdBottom = "initrd-bottom"
	Init         = "init"
)

// Layer is one level of policy.
type Layer struct {
	Scope string // "organisation", "site/NAME", "room/SITE/NAME"
	Tree  policy.Tree
}

// Config says what is run on what.
type Config struct {
	// Root is the system's root directory; "/" on a running client. The policy's files have been written to its /etc/ltsp before.
	Root string
	// Name is InitrdBottom or Init.
	Name string
	// Layers are the levels in the order of their evaluation; a later one's assignments win. None gives LTSP's defaults.
	Layers []Layer
	Facts  step.Facts
	// Users are the accounts of the login host; nil if they are not known, then the image's accounts stay.
	Users *agentproto.Users
	// PAM and RemoteApps do what others know how to do; nil leaves it undone. A nil System is step.None.
	PAM        step.PAM
	RemoteApps step.RemoteApps
	System     step.System
	// Timeout bounds the evaluation, and each hook and script function by itself; zero means DefaultTimeout.
	Timeout time.Duration
	// Log receives what scripts print, one record a line, and what is done; nil discards it.
	Log *slog.Logger

	// inPlace has the shell run without chroot, so that tests need neither root nor a whole system below Root.
	inPlace bool
	program []string // the shell; nil means /bin/sh
}

// DefaultTimeout is Config.Timeout's default.
const DefaultTimeout = 2 * time.Minute

// StateDir is where a run keeps its scripts, originals of changed files and its Result: below Root, root only.
const StateDir = "/run/ltsp/applet"

var (
	// ErrEvaluate is wrapped by the error of a configuration that could not be evaluated: it does not parse, ends the shell or takes too long. Nothing has
	// been changed then. The text says which file and line, as the shell does.
	ErrEvaluate = errors.New("evaluate ltsp.conf")
	// ErrName is the error of an unknown applet.
	ErrName = errors.New("no such applet")
)

// Result is what a run has found and done. It is saved in StateDir (Load); it holds secrets: PASSWORDS_x are values.
type Result struct {
	Name string `json:"name"`
	// Values are all variables after evaluation, and the inputs (step.InputUsers and so on) by digest.
	Values map[string]string `json:"values"`
	// Final are the variables after the last hook: Values, and what the steps and hooks have set. HOSTNAME and SERVER are here.
	Final map[string]string `json:"final"`
	// Boot are the Values of the last Run: what needs a reboot is judged against them.
	Boot map[string]string `json:"boot"`
	// Set are the variables that hooks and functions set at boot to something else than Boot.
	Set map[string]string `json:"set,omitempty"`
	// Ran are the functions that did something, in order, script functions too.
	Ran []string `json:"ran,omitempty"`
	// Pending says what has changed and needs a reboot, a line each. Only Reapply fills it.
	Pending []string `json:"pending,omitempty"`
	// Failures say what could not be done; the rest has been.
	Failures []Failure `json:"failures,omitempty"`
	// Remarks say what was given and has no effect.
	Remarks []string `json:"remarks,omitempty"`
	// Replaced are our functions in place of which scripts' ran, or that were omitted.
	Replaced []string `json:"replaced,omitempty"`
	// Notes are the steps' own.
	Notes map[string][]string `json:"notes,omitempty"`
	// DebugShell is DEBUG_SHELL: the administrator wants a shell on the console if something has failed.
	DebugShell bool `json:"debug_shell,omitempty"`
}

// Failure is a function or hook that went wrong. LTSP would stop the boot there; whoever calls decides.
type Failure struct {
	Step  string `json:"step"` // 45-networking; PRE or POST for hooks
	Name  string `json:"name"` // config_hosts
	Error string `json:"error"`
}

// Run evaluates the configuration and runs the applet. It returns an error if nothing was done: ErrName, ErrEvaluate or the context's. What went wrong
// in single steps and hooks is in Result.Failures; later steps have run all the same. It saves the Result.
func Run(ctx context.Context, cfg Config) (Result, error) {
	return run(ctx, cfg)
}

// Reapply brings a running client from the state that previous describes to what the configuration says now: functions that are Live and depend on what
// has changed run again, the others are told in Result.Pending. What was pending before stays so until its value is as it was at boot. Hooks and drop-in
// scripts are not run again. An error means that nothing was changed. It saves the Result, which the next Reapply takes as previous.
func Reapply(ctx context.Context, cfg Config, previous Result) (Result, error) {
	return reapply(ctx, cfg, previous)
}

// Load reads the Result that the named applet's last run saved below root. The error is fs.ErrNotExist if none has run.
func Load(root, name string) (Result, error) {
	return load(rootdir.Root(root), name)
}
