package delta

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// cancelingSource ends a context at its n-th read.
type cancelingSource struct {
	Source
	left   atomic.Int64
	cancel context.CancelFunc
}

// ReadAt implements io.ReaderAt.
func (c *cancelingSource) ReadAt(p []byte, off int64) (int, error) {
	if c.left.Add(-1) == 0 {
		c.cancel()
	}
	return c.Source.ReadAt(p, off)
}

// reads is how often f reads from a source.
func reads(t *testing.T, b []byte, f func(Source) error) int64 {
	t.Helper()
	c := &cancelingSource{Source: source(b), cancel: func() {}}
	if err := f(c); err != nil {
		t.Fatal(err)
	}
	return -c.left.Load()
}

// canceled calls f with sources that end its context sooner and later; the bubble waits for all goroutines that f leaves.
func canceled(t *testing.T, b []byte, f func(ctx context.Context, s Source) error) {
	t.Helper()
	n := reads(t, b, func(s Source) error { return f(t.Context(), s) })
	if n < 10 {
		t.Fatalf("only %d reads", n)
	}
	early := 0
	for at := int64(1); at <= n; at += max(1, n/12) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := &cancelingSource{Source: source(b), cancel: cancel}
			s.left.Store(at)
			switch err := f(ctx, s); {
			case errors.Is(err, context.Canceled):
				early++
			case err != nil:
				t.Errorf("canceled at read %d of %d: %v, want context.Canceled", at, n, err)
			}
		})
	}
	if early < 5 {
		t.Errorf("only %d calls ended before they were done", early)
	}
}

func TestCancelMake(t *testing.T) {
	old, neu := testdata(t, "old.squashfs"), testdata(t, "new.squashfs")
	for name, b := range map[string][]byte{"old": old, "new": neu} {
		t.Run(name, func(t *testing.T) {
			canceled(t, b, func(ctx context.Context, s Source) error {
				o, n := source(old), s
				if name == "old" {
					o, n = s, source(neu)
				}
				_, err := Make(ctx, o, n, io.Discard, Options{Parallel: 2})
				return err
			})
		})
	}
}

func TestCancelApply(t *testing.T) {
	golden := testdata(t, "golden-1.delta")
	canceled(t, testdata(t, "old.squashfs"), func(ctx context.Context, s Source) error {
		return Apply(ctx, s, source(golden), &memoryTarget{}, Options{Parallel: 2})
	})
}

// TestCancelBefore: nothing is done in a context that has ended.
func TestCancelBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	old, golden := testdata(t, "old.squashfs"), testdata(t, "golden-1.delta")
	var out bytes.Buffer
	if _, err := Make(ctx, source(old), source(testdata(t, "new.squashfs")), &out, Options{}); !errors.Is(err, context.Canceled) || out.Len() > 0 {
		t.Errorf("make gives %v and %d bytes", err, out.Len())
	}
	if err := Apply(ctx, source(old), source(golden), &memoryTarget{}, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("apply gives %v", err)
	}
}
