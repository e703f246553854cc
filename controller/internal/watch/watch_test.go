package watch_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/watch"
)

func TestCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hub watch.Hub
		w := hub.Watch([]string{watch.Image, watch.Client})
		defer w.Close()
		start := time.Now()
		hub.Notify(watch.Client)
		next(t, w, []string{watch.Client}, start)
		hub.Notify(watch.Image)
		hub.Notify(watch.Site) // nobody asked for it
		hub.Notify(watch.Image, watch.Client)
		next(t, w, []string{watch.Client, watch.Image}, start.Add(watch.Interval))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		hub.Notify(watch.Token)
		if kinds, err := w.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, %v; want nothing", kinds, err)
		}
	})
}

func next(t *testing.T, w *watch.Watcher, want []string, at time.Time) {
	t.Helper()
	got, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
	if !time.Now().Equal(at) {
		t.Errorf("event at %v, want %v", time.Now(), at)
	}
}

func TestClosedGetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hub watch.Hub
		w := hub.Watch(watch.Kinds())
		w.Close()
		hub.Notify(watch.Kinds()...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if kinds, err := w.Next(ctx); err == nil {
			t.Errorf("got %v after Close", kinds)
		}
	})
}
