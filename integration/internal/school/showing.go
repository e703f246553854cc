package school

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// ctlShowing runs ltspctl at the admin's desk and passes on to Log, line by line, what it says meanwhile: for work that takes long.
func (s *School) ctlShowing(ctx context.Context, args ...string) error {
	out, err := os.CreateTemp(s.Dir, "ltspctl-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	args = append([]string{"--contexts", s.Contexts()}, args...)
	p, err := s.desk.Start(ctx, testnet.Proc{Path: filepath.Join(s.Bin, "ltspctl"), Args: args, LogFile: out.Name()})
	if err != nil {
		return err
	}
	show := &follower{from: out, log: s.Log}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			show.more()
		case <-p.Done():
			show.more()
			if err := p.Wait(ctx); err != nil {
				return fmt.Errorf("ltspctl %s: %w: %s", strings.Join(args[2:], " "), err, show.last)
			}
			return nil
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), p.Kill9())
		}
	}
}

// follower logs the lines that are added to a file.
type follower struct {
	from io.Reader
	log  func(string, ...any)
	rest []byte
	last string
}

// more logs the lines that have come since the last call.
func (f *follower) more() {
	data, err := io.ReadAll(f.from)
	if err != nil {
		f.log("read output: %v", err)
		return
	}
	f.rest = append(f.rest, data...)
	for {
		line, rest, ok := bytes.Cut(f.rest, []byte("\n"))
		if !ok {
			return
		}
		f.rest, f.last = rest, string(line)
		f.log("  %s", line)
	}
}
