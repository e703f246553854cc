package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// pair is what a tool works on: paths of two images.
type pair struct {
	old, new string
}

// usage is what one side of a transfer cost.
type usage struct {
	CPUSeconds float64 `json:"cpu_seconds"` // user and system
	PeakBytes  int64   `json:"peak_bytes"`  // resident set
	// PeakBelow says that PeakBytes is an upper bound: the process needed no more than what starts it.
	PeakBelow bool `json:"peak_below,omitempty"`
}

// result is what one tool did with one pair.
type result struct {
	Wire      int64 `json:"wire_bytes"`                 // everything sent, both ways
	Overhead  int64 `json:"overhead_bytes,omitempty"`   // of it framing and manifest, where they are computed
	FirstRead int64 `json:"first_read_bytes,omitempty"` // received before the new version can be read; 0: all of it
	Sender    usage `json:"sender"`
	Receiver  usage `json:"receiver"`
	// Shared says that the peak of both sides was measured together and stands in both.
	Shared  bool    `json:"shared_peak,omitempty"`
	Seconds float64 `json:"seconds"`          // wall clock, both sides; says something on an idle machine only
	Reused  bool    `json:"reused,omitempty"` // measured by an earlier run
}

// output is where a tool leaves the new image, in its work directory.
const output = "out"

// tool moves a new image to a place that has the old one.
type tool interface {
	Name() string
	// Identity tells apart what may give other figures: the program's version and its arguments.
	Identity(ctx context.Context) (string, error)
	// Run makes dir/out from p.old, which stays as it is, and what crosses the wire. dir is an empty directory.
	Run(ctx context.Context, p pair, dir string) (result, error)
}

// selectTools returns the tools called names, in the order of all.
func selectTools(all []tool, names string) ([]tool, error) {
	var list []tool
	wanted := strings.Split(names, ",")
	for _, t := range all {
		if i := slices.Index(wanted, t.Name()); i >= 0 {
			list = append(list, t)
			wanted = slices.Delete(wanted, i, i+1)
		}
	}
	if len(wanted) > 0 {
		var known []string
		for _, t := range all {
			known = append(known, t.Name())
		}
		return nil, fmt.Errorf("unknown tool %q: there are %s", wanted[0], strings.Join(known, ", "))
	}
	return list, nil
}

// runTool runs a tool in a directory of its own and compares what it made with the new image, whose size and hash are given.
func runTool(ctx context.Context, t tool, p pair, want fileID, scratch string) (_ result, err error) {
	dir, err := os.MkdirTemp(scratch, "bench-"+t.Name()+"-")
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	begin := time.Now()
	r, err := t.Run(ctx, p, dir)
	if err != nil {
		return result{}, fmt.Errorf("%s: %w", t.Name(), err)
	}
	r.Seconds = time.Since(begin).Seconds()
	got, err := identify(filepath.Join(dir, output))
	if err != nil {
		return result{}, fmt.Errorf("%s: %w", t.Name(), err)
	}
	if got != want {
		return result{}, fmt.Errorf("%s made another image: %d bytes with SHA-256 %s, want %d and %s", t.Name(), got.Size, got.SHA256, want.Size, want.SHA256)
	}
	return r, nil
}
