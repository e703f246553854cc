package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// patcher is a program that writes a file with the difference of two files, and applies it. In its arguments OLD, NEW, PATCH
// and OUT stand for paths.
type patcher struct {
	name, program     string
	versionFlag       string
	makeArgs, useArgs string
}

func patchers() []tool {
	return []tool{
		patcher{
			name: "xdelta3", program: "xdelta3", versionFlag: "-V",
			makeArgs: "-e -9 -S lzma -B 2147483648 -f -s OLD NEW PATCH",
			useArgs:  "-d -B 2147483648 -f -s OLD PATCH OUT",
		},
		patcher{
			name: "zstd", program: "zstd", versionFlag: "--version",
			makeArgs: "-q -f -3 --long=31 --patch-from=OLD NEW -o PATCH",
			useArgs:  "-q -f -d --long=31 --memory=2048MB --patch-from=OLD PATCH -o OUT",
		},
	}
}

func (p patcher) Name() string { return p.name }

func (p patcher) Identity(ctx context.Context) (string, error) {
	v, err := version(ctx, p.program, p.versionFlag)
	return v + " " + p.makeArgs, err
}

func (p patcher) Run(ctx context.Context, images pair, dir string) (result, error) {
	patch := filepath.Join(dir, "patch")
	paths := map[string]string{"OLD": images.old, "NEW": images.new, "PATCH": patch, "OUT": filepath.Join(dir, output)}
	var r result
	var err error
	if r.Sender, _, err = measure(ctx, dir, p.program, expand(p.makeArgs, paths)...); err != nil {
		return r, fmt.Errorf("make patch: %w", err)
	}
	if r.Receiver, _, err = measure(ctx, dir, p.program, expand(p.useArgs, paths)...); err != nil {
		return r, fmt.Errorf("apply patch: %w", err)
	}
	r.Wire, err = fileSize(patch)
	return r, err
}

// expand splits a command line at spaces and puts paths in place of their names, also behind "=".
func expand(line string, paths map[string]string) []string {
	args := strings.Fields(line)
	for i, arg := range args {
		option, value, found := strings.Cut(arg, "=")
		if path, known := paths[arg]; known {
			args[i] = path
		} else if path, known := paths[value]; found && known {
			args[i] = option + "=" + path
		}
	}
	return args
}
