package resident

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// answers plays systemctl: the output by the first argument, and for is-system-running with its second.
func answers(table map[string]string, calls *[]string) Systemctl {
	return func(_ context.Context, args ...string) (string, error) {
		key := args[0]
		if key == "is-system-running" && len(args) > 1 {
			key += " " + args[1]
		}
		if calls != nil {
			*calls = append(*calls, key)
		}
		out, ok := table[key]
		if !ok {
			return "", errors.New(key + " is unknown")
		}
		return out, nil
	}
}

func TestAsk(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		table   map[string]string
		want    System
		started time.Duration
		calls   string
	}{
		{"running", map[string]string{"show": "NJobs=0\nNFailedUnits=0\nSystemState=running\nUserspaceTimestampMonotonic=2500000\n"},
			System{State: "running"}, 2500 * time.Millisecond, "show"},
		{"starting", map[string]string{
			"show":      "SystemState=starting\nNFailedUnits=0\nNJobs=3\nUserspaceTimestampMonotonic=1\n",
			"list-jobs": "12 home.mount start running\n13 graphical.target start waiting\n14 x.service start running\nbad\n"},
			System{State: "starting", Jobs: []string{"home.mount", "x.service"}}, time.Microsecond, "show list-jobs"},
		{"starting, nothing runs", map[string]string{
			"show": "SystemState=starting\nNFailedUnits=0\nNJobs=1\n", "list-jobs": "13 dev-sda1.device start waiting\n"},
			System{State: "starting", Jobs: []string{"dev-sda1.device"}}, 0, "show list-jobs"},
		{"degraded", map[string]string{
			"show":       "SystemState=degraded\nNFailedUnits=2\nNJobs=0\n",
			"list-units": "● cups.service loaded failed failed CUPS\nntp.service loaded failed failed NTP\n"},
			System{State: "degraded", Failed: []string{"cups.service", "ntp.service"}}, 0, "show list-units"},
		{"running with jobs", map[string]string{"show": "SystemState=running\nNFailedUnits=0\nNJobs=2\n"},
			System{State: "running"}, 0, "show"},
		{"old", map[string]string{"show": "NFailedUnits=0\nNJobs=0\n", "is-system-running": "running\n"},
			System{State: "running"}, 0, "show is-system-running"},
		{"no answer", nil, System{Err: "show is unknown"}, 0, "show"},
		{"half an answer", map[string]string{"show": "SystemState=degraded\nNFailedUnits=1\n"},
			System{State: "degraded", Err: "list-units is unknown"}, 0, "show list-units"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var calls []string
			got, started := Ask(t.Context(), answers(tt.table, &calls))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if started != tt.started || strings.Join(calls, " ") != tt.calls {
				t.Errorf("started %v, calls %q", started, calls)
			}
		})
	}
}

func TestRunCommand(t *testing.T) {
	t.Parallel()
	sh := []string{"/nowhere/sh", "/bin/sh"}
	ended := make(chan struct{}, 1)
	out, err := runCommand(t.Context(), sh, []string{"-c", "echo degraded; exit 1"}, func() { ended <- struct{}{} })
	if err != nil || out != "degraded\n" {
		t.Errorf("got %q, %v", out, err)
	}
	<-ended
	if _, err := runCommand(t.Context(), []string{"/nowhere/sh"}, nil, func() { ended <- struct{}{} }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	<-ended
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := runCommand(ctx, sh, []string{"-c", "sleep 100"}, func() { ended <- struct{}{} }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-ended // it was killed
	out, err = runCommand(t.Context(), sh, []string{"-c", "head -c 200000 /dev/zero"}, func() { ended <- struct{}{} })
	if err != nil || len(out) != maxOutput {
		t.Errorf("got %d bytes, %v", len(out), err)
	}
	<-ended
}

func TestLimit(t *testing.T) {
	t.Parallel()
	var hanging []func()
	run := limit(2, func(_ context.Context, _ []string, ended func()) (string, error) {
		hanging = append(hanging, ended)
		return "", context.DeadlineExceeded
	})
	for range 2 {
		if _, err := run(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := run(t.Context()); !errors.Is(err, errBusy) {
		t.Errorf("two processes hang, and a third is started: %v", err)
	}
	hanging[0]()
	if _, err := run(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one has ended: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("SystemState=running\nNJobs=0\n")
	f.Add("● cups.service loaded failed failed CUPS\n12 home.mount start running\n")
	f.Fuzz(func(t *testing.T, out string) {
		parseShow(out)
		for _, unit := range append(parseColumn(out, 0), parseJobs(out)...) {
			if unit == "" || len(unit) > 255 || strings.ContainsAny(unit, " \n") {
				t.Errorf("unit %q", unit)
			}
		}
	})
}
