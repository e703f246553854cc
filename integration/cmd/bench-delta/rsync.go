package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// rsync runs its two processes with a pipe between them, as ssh would connect them, and counts what goes through it.
type rsync struct{}

// remoteShell takes the place of ssh: it runs the command, whatever the host, and notes the CPU times of it. "times" of a shell
// prints its own on the first line and those of its children on the second.
const remoteShell = `#!/bin/sh
shift
"$@"
code=$?
times >"$0.times"
exit $code
`

const rsyncArgs = "--no-whole-file --ignore-times --compress --stats"

func (rsync) Name() string { return "rsync" }

func (rsync) Identity(ctx context.Context) (string, error) {
	v, err := version(ctx, "rsync", "--version")
	return v + " " + rsyncArgs, err
}

func (rsync) Run(ctx context.Context, p pair, dir string) (result, error) {
	out, shell := filepath.Join(dir, output), filepath.Join(dir, "shell")
	if err := errors.Join(copyFile(p.old, out), os.WriteFile(shell, []byte(remoteShell), 0o755)); err != nil {
		return result{}, err
	}
	args := append(strings.Fields(rsyncArgs), "--rsh="+shell, p.new, "there:"+out)
	both, printed, err := measure(ctx, dir, "rsync", args...)
	if err != nil {
		return result{}, err
	}
	times, err := os.ReadFile(shell + ".times")
	if err != nil {
		return result{}, err
	}
	receiver, err := parseTimes(string(times))
	if err != nil {
		return result{}, err
	}
	wire, err := parseStats(string(printed))
	if err != nil {
		return result{}, err
	}
	r := result{Wire: wire, Sender: both, Receiver: both, Shared: true}
	r.Receiver.CPUSeconds = receiver
	r.Sender.CPUSeconds = max(0, both.CPUSeconds-receiver)
	return r, nil
}

// parseStats adds what `rsync --stats` says was sent and received.
func parseStats(stats string) (int64, error) {
	var sum int64
	for _, label := range []string{"Total bytes sent: ", "Total bytes received: "} {
		_, after, found := strings.Cut(stats, label)
		if !found {
			return 0, fmt.Errorf("rsync printed no %q: %s", label, tail(stats))
		}
		line, _, _ := strings.Cut(after, "\n")
		n, err := strconv.ParseInt(strings.NewReplacer(",", "", ".", "").Replace(strings.TrimSpace(line)), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("rsync statistics: %w", err)
		}
		sum += n
	}
	return sum, nil
}

// shellTime matches what POSIX's "times" prints, such as 1m2.34s.
var shellTime = regexp.MustCompile(`(\d+)m(\d+\.\d+)s`)

// parseTimes adds the CPU seconds of a shell's children.
func parseTimes(printed string) (float64, error) {
	_, children, _ := strings.Cut(printed, "\n")
	found := shellTime.FindAllStringSubmatch(children, -1)
	if len(found) != 2 {
		return 0, fmt.Errorf("CPU times of a shell: %q", printed)
	}
	var sum float64
	for _, f := range found {
		minutes, err1 := strconv.ParseFloat(f[1], 64)
		seconds, err2 := strconv.ParseFloat(f[2], 64)
		if err := errors.Join(err1, err2); err != nil {
			return 0, fmt.Errorf("CPU times of a shell: %w", err)
		}
		sum += minutes*60 + seconds
	}
	return sum, nil
}
