package progress

import (
	"strings"
	"testing"
	"time"
)

func TestBytes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.00 kB", 12_340_000: "12.3 MB", 999_600: "1.00 MB", 747_884_544: "748 MB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestPipeGetsPlainLines(t *testing.T) {
	var out strings.Builder
	now := time.Unix(0, 0)
	r := &Reporter{out: &out, now: func() time.Time { return now }}
	b := r.Bar("upload", 1000)
	b.Add(100) // too early for a line
	now = now.Add(6 * time.Second)
	b.Add(400)
	b.Done()
	b.Done()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "50 %") || strings.ContainsAny(out.String(), "\r\x1b") {
		t.Errorf("output %q", out.String())
	}
}

func TestTerminalGetsABar(t *testing.T) {
	var out strings.Builder
	r := &Reporter{out: &out, terminal: true, now: time.Now}
	b := r.Bar("upload", 10)
	b.Set(5)
	b.Done()
	if !strings.Contains(out.String(), "[===============               ]") {
		t.Errorf("output %q", out.String())
	}
}

func TestNilShowsNothing(t *testing.T) {
	var r *Reporter
	r.Step("x")
	b := r.Bar("x", 1)
	b.Add(1)
	b.Done()
}
