package publish

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// Delta leads from a squashfs that the controller has to the new one.
type Delta struct {
	BaseSHA256, SHA256 [32]byte
	Bytes              int64
	Chunks             []chunk.Ref
	file               io.ReaderAt
}

// addDelta makes the delta from the base in a temporary file that lives until Close.
func (p *Prepared) addDelta(ctx context.Context, next *os.File, size int64, o Options) error {
	base, err := os.Open(o.Base)
	if err != nil {
		return fmt.Errorf("open base: %w", err)
	}
	defer base.Close()
	info, err := base.Stat()
	if err != nil {
		return fmt.Errorf("open base: %w", err)
	}
	d := &Delta{}
	if d.BaseSHA256, err = sum(ctx, base, info.Size()); err != nil {
		return fmt.Errorf("read base: %w", err)
	}
	f, err := os.CreateTemp("", "ltspctl-delta-")
	if err != nil {
		return fmt.Errorf("delta: %w", err)
	}
	p.close = append(p.close, f.Close)
	if err := os.Remove(f.Name()); err != nil { // the open file is all we need
		return fmt.Errorf("delta: %w", err)
	}
	show := o.Step("making the delta")
	stats, err := delta.Make(ctx, io.NewSectionReader(base, 0, info.Size()), io.NewSectionReader(next, 0, size), f, delta.Options{
		NewDigest: verity.Digest(p.Draft.Digest), Progress: func(stage string, done, total int64) {
			if show != nil && stage == "diff" { // the longest stage stands for all
				show(done, total)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("delta from %s: %w", o.Base, err)
	}
	d.Bytes, d.file = stats.DeltaBytes, f
	if d.SHA256, err = sum(ctx, f, d.Bytes); err != nil {
		return fmt.Errorf("delta: %w", err)
	}
	if d.Chunks, err = chunk.CutFixed(ctx, f, d.Bytes, nil); err != nil {
		return fmt.Errorf("delta: %w", err)
	}
	p.Delta = d
	return nil
}
