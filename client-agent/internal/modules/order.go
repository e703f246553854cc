package modules

import (
	"fmt"
	"maps"
	"slices"
)

// A Step is one module to load.
type Step struct {
	Name string
	Path string // below the index's directory
	// Optional steps come from soft dependencies alone: if they fail, the rest goes on.
	Optional bool
}

// Order returns what has to be loaded, in order, so that the module works: soft dependencies, dependencies, itself. It is empty for a module
// that is built in. The error wraps ErrNotFound if the module or a dependency is missing.
func (x *Index) Order(name string) ([]Step, error) {
	name = normalize(name)
	o := ordering{index: x, seen: map[string]bool{}}
	if err := o.add(name); err != nil {
		return nil, err
	}
	steps := make([]Step, 0, len(o.names))
	for _, n := range o.names {
		needed := n == name || slices.Contains(x.deps[name], n)
		steps = append(steps, Step{Name: n, Path: x.paths[n], Optional: !needed})
	}
	return steps, nil
}

type ordering struct {
	index *Index
	seen  map[string]bool
	names []string
}

func (o *ordering) add(name string) error {
	if o.seen[name] || o.index.builtin[name] {
		return nil
	}
	if !o.index.has(name) {
		return fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	o.seen[name] = true // before the dependencies: a cycle of soft ones must end
	o.addSoft(o.index.pre[name])
	for _, dep := range slices.Backward(o.index.deps[name]) {
		if err := o.add(dep); err != nil {
			return fmt.Errorf("needed by %s: %w", name, err)
		}
	}
	o.names = append(o.names, name)
	o.addSoft(o.index.post[name])
	return nil
}

// addSoft adds what is there of names, which may be module names or aliases. What cannot be had completely is left out.
func (o *ordering) addSoft(names []string) {
	for _, name := range names {
		candidates := []string{name}
		if !o.index.has(name) {
			candidates = o.index.Match(name)
		}
		for _, c := range candidates {
			trial := ordering{index: o.index, seen: maps.Clone(o.seen), names: slices.Clone(o.names)}
			if trial.add(c) == nil {
				*o = trial
			}
		}
	}
}
