// Package progress shows how far long work has come: one bar that redraws itself on a terminal, plain lines every few seconds
// elsewhere. Only ltspctl uses it.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	redraw   = 100 * time.Millisecond // between two states of a bar
	interval = 5 * time.Second        // between two lines in a pipe
	barWidth = 30
)

// Reporter starts bars on one output. A nil Reporter shows nothing.
type Reporter struct {
	out      io.Writer
	terminal bool
	now      func() time.Time
}

// New returns a reporter that writes to f.
func New(f *os.File) *Reporter {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return &Reporter{out: f, terminal: err == nil, now: time.Now}
}

// Step prints one line of its own.
func (r *Reporter) Step(format string, args ...any) {
	if r != nil {
		fmt.Fprintf(r.out, format+"\n", args...)
	}
}

// Bar begins a piece of work of total bytes (or other units; 0 if unknown) with a title.
func (r *Reporter) Bar(title string, total uint64) *Bar {
	if r == nil {
		return nil
	}
	now := r.now()
	b := &Bar{r: r, title: title, total: total, began: now, shown: now}
	if r.terminal {
		b.shown = time.Time{}
	}
	return b
}

// PercentBar begins a piece of work that is measured in percent.
func (r *Reporter) PercentBar(title string) *Bar {
	b := r.Bar(title, 100)
	if b != nil {
		b.percent = true
	}
	return b
}

// Bar is one piece of work. A nil Bar does nothing. Safe for concurrent use.
type Bar struct {
	r            *Reporter
	title        string
	began, shown time.Time
	percent      bool

	mu    sync.Mutex
	total uint64
	done  uint64
	ended bool
}

// Set says that done units of the work are finished.
func (b *Bar) Set(done uint64) { b.update(func() { b.done = done }) }

// Add says that n more units are finished.
func (b *Bar) Add(n uint64) { b.update(func() { b.done += n }) }

// Total changes the size of the work.
func (b *Bar) Total(n uint64) { b.update(func() { b.total = n }) }

func (b *Bar) update(change func()) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
	now, wait := b.r.now(), interval
	if b.r.terminal {
		wait = redraw
	}
	if !b.ended && now.Sub(b.shown) >= wait {
		b.shown = now
		b.showLocked(now)
	}
}

// Done ends the bar with its final state. Later calls do nothing.
func (b *Bar) Done() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return
	}
	b.ended = true
	b.showLocked(b.r.now())
	if b.r.terminal {
		fmt.Fprintln(b.r.out)
	}
}

func (b *Bar) showLocked(now time.Time) {
	line := Line(b.title, b.done, b.total, now.Sub(b.began), b.r.terminal)
	if b.percent {
		line = percentLine(b.title, b.done, b.r.terminal)
	}
	if b.r.terminal {
		fmt.Fprintf(b.r.out, "\r\x1b[K%s", line)
		return
	}
	fmt.Fprintln(b.r.out, line)
}

// Line formats one state of a piece of work that has run for elapsed.
func Line(title string, done, total uint64, elapsed time.Duration, bar bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-22s", title)
	if total > 0 {
		share := min(float64(done)/float64(total), 1)
		b.WriteString(drawn(share, bar))
		fmt.Fprintf(&b, " %3.0f %%  %s of %s", share*100, Bytes(done), Bytes(total))
	} else {
		fmt.Fprintf(&b, "  %s", Bytes(done))
	}
	if s := elapsed.Seconds(); s >= 1 {
		fmt.Fprintf(&b, "  %s/s", Bytes(uint64(float64(done)/s)))
		if total > done && done > 0 {
			left := time.Duration(s / float64(done) * float64(total-done) * float64(time.Second))
			fmt.Fprintf(&b, "  %s left", left.Round(time.Second))
		}
	}
	return b.String()
}

// percentLine formats one state of a piece of work that is measured in percent.
func percentLine(title string, done uint64, bar bool) string {
	share := min(float64(done)/100, 1)
	return fmt.Sprintf("%-22s%s %3.0f %%", title, drawn(share, bar), share*100)
}

// drawn is the bar itself, or nothing.
func drawn(share float64, bar bool) string {
	if !bar {
		return ""
	}
	full := int(share * barWidth)
	return " [" + strings.Repeat("=", full) + strings.Repeat(" ", barWidth-full) + "]"
}

// Bytes formats a number of bytes in decimal units with three digits.
func Bytes(n uint64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	v, i := float64(n), 0
	for v >= 999.5 && i < len(units)-1 {
		v, i = v/1000, i+1
	}
	switch {
	case i == 0:
		return fmt.Sprintf("%d B", n)
	case v < 9.995:
		return fmt.Sprintf("%.2f %s", v, units[i])
	case v < 99.95:
		return fmt.Sprintf("%.1f %s", v, units[i])
	}
	return fmt.Sprintf("%.0f %s", v, units[i])
}
