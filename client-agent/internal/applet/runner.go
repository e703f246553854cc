package applet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/shell"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

// runner is one run of an applet.
type runner struct {
	cfg    Config
	root   rootdir.Root
	shell  *shell.Shell
	log    *debugLog
	step   *step.Context
	result Result
	// shown are the values that the shell has; functions may have set others since.
	shown map[string]string
	// inShell are the functions that the shell defines.
	inShell map[string]bool
}

func newRunner(ctx context.Context, cfg Config) (*runner, error) {
	if cfg.Name != Init && cfg.Name != InitrdBottom {
		return nil, fmt.Errorf("%w: %q", ErrName, cfg.Name)
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultTimeout)
	if cfg.System == nil {
		cfg.System = step.None{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &runner{cfg: cfg, root: rootdir.Root(cfg.Root), log: &debugLog{log: cfg.Log}, result: Result{Name: cfg.Name}}
	startCtx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	var err error
	if r.shell, err = r.startShell(startCtx); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvaluate, err)
	}
	return r, nil
}

func (r *runner) startShell(ctx context.Context) (*shell.Shell, error) {
	if err := r.root.MkdirAll(path.Dir(StateDir), 0o755); err != nil {
		return nil, err
	}
	if err := r.root.MkdirAll(StateDir, 0o700); err != nil {
		return nil, err
	}
	root, dir := r.root, path.Join(StateDir, r.cfg.Name)
	if r.cfg.inPlace {
		root, dir = "/", path.Join(r.cfg.Root, dir)
	}
	return shell.Start(ctx, shell.Config{Root: root, Dir: dir, Program: r.cfg.program, Output: r.log.script})
}

// prepare evaluates the configuration and makes the functions' surroundings.
func (r *runner) prepare(ctx context.Context, notes map[string][]string) error {
	values, err := r.evaluate(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEvaluate, err)
	}
	r.shown = maps.Clone(values)
	r.result.Values = maps.Clone(values)
	maps.Copy(r.result.Values, digestInputs(r.cfg))
	r.result.DebugShell = values["DEBUG_SHELL"] == "1"
	r.step = &step.Context{
		Ctx: ctx, Root: r.root, Facts: r.cfg.Facts, Values: values, Users: r.cfg.Users, System: r.cfg.System, PAM: r.cfg.PAM, RemoteApps: r.cfg.RemoteApps,
		Memory: step.NewMemory(r.root, StateDir, notes), Log: r.cfg.Log,
		Expand: func(text string) (string, error) { return r.expand(ctx, text) },
	}
	return nil
}

func run(ctx context.Context, cfg Config) (Result, error) {
	r, err := newRunner(ctx, cfg)
	if err != nil {
		return Result{Name: cfg.Name}, err
	}
	defer r.shell.Close()
	if err := r.prepare(ctx, nil); err != nil {
		return r.result, err
	}
	r.result.Boot = r.result.Values
	entries, err := r.entries()
	if err != nil {
		return r.result, err
	}
	if err := r.source(ctx, entries); err != nil {
		return r.result, fmt.Errorf("%w: %w", ErrEvaluate, err)
	}
	r.omit(ctx)
	r.hooks(ctx, "PRE")
	r.findReplaced(ctx, entries)
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return r.result, err
		}
		r.main(ctx, e)
	}
	r.hooks(ctx, "POST")
	r.result.Set = map[string]string{}
	for _, name := range changes(r.result.Boot, r.step.Values) {
		if _, ok := r.step.Values[name]; ok && !strings.HasPrefix(name, "input:") {
			r.result.Set[name] = r.step.Values[name]
		}
	}
	return r.finish()
}

// finish saves the result.
func (r *runner) finish() (Result, error) {
	r.result.Final = r.step.Values
	r.result.Remarks = append(r.result.Remarks, r.step.Remarks...)
	r.result.Notes = r.step.Memory.Notes
	for _, text := range r.result.Remarks {
		r.log.note("remark: " + text)
	}
	if r.step.Values["DEBUG_LOG"] != "0" {
		if err := r.log.save(r.root); err != nil {
			r.cfg.Log.Warn("debug log not written", "err", err)
		}
	}
	data, err := json.Marshal(r.result)
	if err == nil {
		err = r.root.WriteFileMode(resultFile(r.cfg.Name), string(data)+"\n", 0o600)
	}
	if err != nil {
		r.failed("save", "result", err)
	}
	return r.result, nil
}

func resultFile(name string) string { return path.Join(StateDir, name+".json") }

func load(root rootdir.Root, name string) (Result, error) {
	data, err := root.ReadFile(resultFile(name))
	if err != nil {
		return Result{}, err
	}
	var result Result
	if err := json.Unmarshal(data, &result); err != nil {
		return Result{}, fmt.Errorf("read the result of applet %s: %w", name, err)
	}
	return result, nil
}

func (r *runner) remark(format string, args ...any) {
	r.result.Remarks = append(r.result.Remarks, fmt.Sprintf(format, args...))
}

func (r *runner) failed(step, name string, err error) {
	r.cfg.Log.Error("step failed", "step", step, "function", name, "err", err)
	r.log.note(fmt.Sprintf("%s: %s: %v", step, name, err))
	r.result.Failures = append(r.result.Failures, Failure{Step: step, Name: name, Error: err.Error()})
}

// entry is one script of the applet: a step of ours, or a file of the policy's in its place or beside it.
type entry struct {
	name string // without .sh
	step *step.Step
	file string // of a script
}

// scriptDirs are the directories of drop-in scripts; of two with one name the later counts.
func scriptDirs(applet string) []string {
	return []string{"/run/ltsp/client/" + applet, "/etc/ltsp/client/" + applet}
}

// entries merges steps and drop-in scripts in the order of their names.
func (r *runner) entries() ([]entry, error) {
	byName := map[string]entry{}
	for _, s := range steps(r.cfg.Name) {
		byName[s.Name+".sh"] = entry{name: s.Name, step: &s}
	}
	for _, dir := range scriptDirs(r.cfg.Name) {
		files, err := r.root.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, f := range files {
			// As LTSP: a script's name begins with a digit, and a link is none.
			if f.Type().IsRegular() && f.Name()[0] >= '0' && f.Name()[0] <= '9' {
				byName[f.Name()] = entry{name: strings.TrimSuffix(f.Name(), ".sh"), file: path.Join(dir, f.Name())}
			}
		}
	}
	var list []entry
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		list = append(list, byName[name])
	}
	return list, nil
}

// source reads the scripts' definitions.
func (r *runner) source(ctx context.Context, entries []entry) error {
	for _, e := range entries {
		if e.file == "" {
			continue
		}
		if err := r.script(ctx, "source-"+e.name, ". "+shell.Quote(r.seen(e.file))+"\n"); err != nil {
			if _, ok := errors.AsType[*shell.ExitError](err); !ok {
				return err
			}
			r.failed(e.name, "source", err)
		}
		if e.name == "55-init" || e.name == "55-initrd-bottom" {
			r.remark("%s: the order of the steps is the agent's own; its _cmdline is not called", e.file)
		}
	}
	return nil
}

// seen is where the shell finds a file of the root.
func (r *runner) seen(p string) string {
	if r.cfg.inPlace {
		return path.Join(r.cfg.Root, p)
	}
	return p
}

// omit defines what OMIT_FUNCTIONS names as functions without effect.
func (r *runner) omit(ctx context.Context) {
	names := r.step.Values.Words("OMIT_FUNCTIONS")
	if len(names) == 0 {
		return
	}
	known := map[string]bool{}
	for _, s := range steps(r.cfg.Name) {
		known[s.Main] = true
		for _, f := range s.Functions {
			known[f.Name] = true
		}
	}
	var script strings.Builder
	var unknown []string
	for _, name := range names {
		switch {
		case !isFunctionName(name):
			r.remark("OMIT_FUNCTIONS: %q cannot be the name of a function", name)
			continue
		case known[name]:
		case ltspFunctions[name]:
			r.remark("OMIT_FUNCTIONS: the agent has no %s, there is nothing to omit", name)
			continue
		default:
			unknown = append(unknown, name)
		}
		fmt.Fprintf(&script, "%s() { :; }\n", name)
	}
	if len(unknown) > 0 {
		defined, err := r.shell.Functions(ctx, unknown)
		if err != nil {
			r.failed("OMIT_FUNCTIONS", "omit_functions", err)
			return
		}
		for _, name := range unknown {
			if !slices.Contains(defined, name) {
				r.remark("OMIT_FUNCTIONS: there is no function %s", name)
			}
		}
	}
	if err := r.script(ctx, "omit", script.String()+":\n"); err != nil {
		r.failed("OMIT_FUNCTIONS", "omit_functions", err)
	}
}

func isFunctionName(s string) bool {
	return s != "" && (s[0] < '0' || s[0] > '9') && !strings.ContainsFunc(s, func(c rune) bool {
		return c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	})
}

// hooks runs PRE_ or POST_APPLET_x, sorted by name, as one script.
func (r *runner) hooks(ctx context.Context, when string) {
	family := when + "_" + strings.ToUpper(strings.ReplaceAll(r.cfg.Name, "-", "_")) + "_"
	parts := r.step.Values.Family(family)
	if len(parts) == 0 {
		return
	}
	r.call(ctx, when, strings.TrimSuffix(family, "_"), strings.Join(parts, "\n")+"\n")
}

// findReplaced learns which functions the shell has.
func (r *runner) findReplaced(ctx context.Context, entries []entry) {
	var names []string
	for _, e := range entries {
		names = append(names, step.ShortName(e.name)+"_main")
		if e.step != nil {
			names = append(names, e.step.Main)
			for _, f := range e.step.Functions {
				names = append(names, f.Name)
			}
		}
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !isFunctionName(n) })
	found, err := r.shell.Functions(ctx, names)
	if err != nil {
		r.failed("scripts", "functions", err)
	}
	r.inShell = map[string]bool{}
	for _, name := range found {
		r.inShell[name] = true
	}
}

// main runs a step or a script's main function.
func (r *runner) main(ctx context.Context, e entry) {
	short := step.ShortName(e.name)
	if slices.Contains(strings.Split(r.step.Values["LTSP_SKIP_SCRIPTS"], ","), short) {
		r.log.note("skipping " + e.name)
		if e.step != nil {
			r.replaced(*e.step)
		}
		return
	}
	if e.step == nil {
		if main := short + "_main"; r.inShell[main] {
			r.call(ctx, e.name, main, main+"\n")
		}
		for _, s := range steps(r.cfg.Name) {
			if s.Name == e.name {
				r.replaced(s)
			}
		}
		return
	}
	if r.inShell[e.step.Main] {
		r.replaced(*e.step)
		r.call(ctx, e.name, e.step.Main, e.step.Main+"\n")
		return
	}
	for _, f := range e.step.Functions {
		if r.inShell[f.Name] {
			r.result.Replaced = append(r.result.Replaced, f.Name)
			r.call(ctx, e.name, f.Name, f.Name+"\n")
			continue
		}
		r.do(e.name, f)
	}
}

func (r *runner) replaced(s step.Step) {
	for _, f := range s.Functions {
		r.result.Replaced = append(r.result.Replaced, f.Name)
	}
}

// do runs a function of ours. A panic is a failure: the boot goes on.
func (r *runner) do(name string, f step.Function) {
	if f.Do == nil {
		return
	}
	begin := time.Now()
	err := func() (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("internal error: %v", v)
			}
		}()
		return f.Do(r.step)
	}()
	r.cfg.Log.Debug("function done", "step", name, "function", f.Name, "dur", time.Since(begin))
	r.result.Ran = append(r.result.Ran, f.Name)
	if err != nil {
		r.failed(name, f.Name, err)
	}
}

// call runs a script that may change variables; it sees what functions have set before.
func (r *runner) call(ctx context.Context, stepName, name, script string) {
	r.result.Ran = append(r.result.Ran, name)
	if err := r.show(ctx); err != nil {
		r.failed(stepName, name, err)
		return
	}
	if err := r.script(ctx, name, script); err != nil {
		r.failed(stepName, name, err)
	}
	values, err := r.shell.Variables(ctx)
	if err != nil {
		return // the shell has ended, which has been told
	}
	r.shown = maps.Clone(values)
	r.step.Values = values
}

// show gives the shell the values that functions have set.
func (r *runner) show(ctx context.Context) error {
	set := map[string]string{}
	for name, value := range r.step.Values {
		if r.shown[name] != value {
			set[name] = value
		}
	}
	if len(set) == 0 {
		return nil
	}
	r.shown = maps.Clone(map[string]string(r.step.Values))
	return r.shell.Set(ctx, set)
}

func (r *runner) script(ctx context.Context, name, script string) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	return r.shell.Run(ctx, strings.ReplaceAll(name, "/", "_"), script)
}

// expand is LTSP's late expansion: % means $.
func (r *runner) expand(ctx context.Context, text string) (string, error) {
	if !strings.ContainsAny(text, "%$`\\") {
		return text, nil
	}
	if err := r.show(ctx); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	return r.shell.Expand(ctx, strings.ReplaceAll(text, "%", "$"))
}
