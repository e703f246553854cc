package delta

import (
	"context"
	"io"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fileSource opens a file as a Source.
func fileSource(t *testing.T, name string) Source {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return io.NewSectionReader(f, 0, st.Size())
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peak is the process's largest resident size so far, in MiB.
func peak() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Maxrss >> 10
}

// TestImages measures a pair of real images named by DELTA_OLD and DELTA_NEW; it keeps the delta in DELTA_OUT if that is set. With
// DELTA_IN it only verifies that delta, which tells the receiver's own time and memory.
func TestImages(t *testing.T) {
	oldName, newName := os.Getenv("DELTA_OLD"), os.Getenv("DELTA_NEW")
	if oldName == "" || newName == "" {
		return // nothing to measure: this is a tool for real images, not a check
	}
	old, neu := fileSource(t, oldName), fileSource(t, newName)
	name := os.Getenv("DELTA_IN")
	if name == "" {
		name = os.Getenv("DELTA_OUT")
		if name == "" {
			name = t.TempDir() + "/delta"
		}
		measureMake(t, old, neu, name)
	}
	start, cpu := time.Now(), cpuTime()
	if err := Verify(context.Background(), old, fileSource(t, name), Options{}); err != nil {
		t.Fatal(err)
	}
	t.Logf("verify: %.1f s, %.1f CPU s, peak %d MiB", time.Since(start).Seconds(), (cpuTime() - cpu).Seconds(), peak())
}

func measureMake(t *testing.T, old, neu Source, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	start, cpu := time.Now(), cpuTime()
	st, err := Make(context.Background(), old, neu, f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("make: %.1f s, %.1f CPU s, peak %d MiB", time.Since(start).Seconds(), (cpuTime() - cpu).Seconds(), peak())
	v := reflect.ValueOf(*st)
	for i := range v.NumField() {
		if n := v.Type().Field(i).Name; n != "Old" && n != "New" {
			t.Logf("%s%v", n+strings.Repeat(" ", 20-len(n)), v.Field(i).Interface())
		}
	}
}
