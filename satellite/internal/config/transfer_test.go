package config

import (
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

func TestWindow(t *testing.T) {
	t.Parallel()
	at := func(text string) time.Time {
		clock, err := time.Parse("15:04", text)
		if err != nil {
			t.Fatal(err)
		}
		return time.Date(2026, 3, 5, clock.Hour(), clock.Minute(), 0, 0, time.UTC)
	}
	tests := []struct {
		window, now string
		open        bool
		change      time.Duration
	}{
		{"", "12:00", true, 0},
		{"22:00-06:00", "21:59", false, time.Minute},
		{"22:00-06:00", "22:00", true, 8 * time.Hour},
		{"22:00-06:00", "00:00", true, 6 * time.Hour},
		{"22:00-06:00", "05:59", true, time.Minute},
		{"22:00-06:00", "06:00", false, 16 * time.Hour},
		{"01:30-05:00", "01:29", false, time.Minute},
		{"01:30-05:00", "03:00", true, 2 * time.Hour},
		{"01:30-05:00", "05:00", false, 20*time.Hour + 30*time.Minute},
	}
	for _, tt := range tests {
		w, err := ParseWindow(tt.window)
		if err != nil {
			t.Fatal(err)
		}
		if w.String() != tt.window {
			t.Errorf("%q becomes %q", tt.window, w)
		}
		if open, change := w.Open(at(tt.now)); open != tt.open || change != tt.change {
			t.Errorf("%q at %s: open %v, change in %s; want %v, %s", tt.window, tt.now, open, change, tt.open, tt.change)
		}
	}
	for _, bad := range []string{"22:00", "22-06", "24:00-06:00", "06:00-06:00", "a-b", "22:00-06:00-07:00", " 22:00-06:00"} {
		if w, err := ParseWindow(bad); err == nil {
			t.Errorf("%q is read as %v", bad, w)
		}
	}
}

func TestDeltaValidate(t *testing.T) {
	t.Parallel()
	good := Delta{Base: manifest.ID{1}, SHA256: [32]byte{1}, Size: 10, IndexBytes: 10}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Delta){
		"no base": func(d *Delta) { d.Base = manifest.ID{} }, "no name": func(d *Delta) { d.SHA256 = [32]byte{} },
		"no index": func(d *Delta) { d.IndexBytes = 0 }, "index behind the end": func(d *Delta) { d.IndexBytes = 11 },
		"negative": func(d *Delta) { d.Size, d.IndexBytes = -1, -2 }, "huge": func(d *Delta) { d.Size = MaxDeltaBytes + 1 },
	} {
		d := good
		change(&d)
		if d.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
