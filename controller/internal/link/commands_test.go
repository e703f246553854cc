package link_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/link"
)

const pc1, pc2 = fleet.MAC("52:54:00:00:00:01"), fleet.MAC("52:54:00:00:00:02")

// serve answers the commands of a session by what says, until the session ends. nil gives no answer.
func serve(s *link.Session, says func(fleet.Command) *fleet.CommandResult) {
	for {
		m, err := s.Next(context.Background())
		if err != nil {
			return
		}
		if m.Command == nil {
			continue
		}
		if result := says(*m.Command); result != nil {
			result.ID, result.MAC = m.Command.ID, m.Command.MAC
			s.Result(*result)
		}
	}
}

func answer(r fleet.CommandResult) func(fleet.Command) *fleet.CommandResult {
	return func(fleet.Command) *fleet.CommandResult { return &r }
}

func silent(fleet.Command) *fleet.CommandResult { return nil }

// command runs a command with the default timeout.
func (b *bench) command(kind fleet.CommandKind) fleet.CommandResult {
	b.t.Helper()
	result, err := b.Command(b.t.Context(), "a", fleet.Command{MAC: pc1, Kind: kind, Timeout: fleet.DefaultCommandTimeout})
	if err != nil {
		b.t.Error(err)
	}
	return result
}

func TestCommands(t *testing.T) {
	done, notHere, broken := answer(fleet.CommandResult{Output: "done", Exit: 3}), answer(fleet.CommandResult{NotHere: true}), answer(fleet.CommandResult{Error: "broken"})
	tests := []struct {
		name     string
		kind     fleet.CommandKind
		one, two func(fleet.Command) *fleet.CommandResult
		want     fleet.CommandResult
	}{
		{"the first has the client", fleet.CommandRun, done, notHere, fleet.CommandResult{Output: "done", Exit: 3}},
		{"the second has the client", fleet.CommandRun, notHere, done, fleet.CommandResult{Output: "done", Exit: 3}},
		{"none has it", fleet.CommandReboot, notHere, notHere, fleet.CommandResult{Error: "no satellite has a connection to the client"}},
		{"the client failed", fleet.CommandReboot, notHere, broken, fleet.CommandResult{Error: "broken"}},
		{"one answers, one is stuck", fleet.CommandReboot, done, silent, fleet.CommandResult{Output: "done", Exit: 3}},
		{"woken up by one", fleet.CommandWake, broken, done, fleet.CommandResult{Output: "done", Exit: 3}},
		{"woken up by none", fleet.CommandWake, broken, broken, fleet.CommandResult{Error: "broken"}},
		{"woken up from nowhere", fleet.CommandWake, notHere, notHere, fleet.CommandResult{Error: "no satellite is attached to the client's network"}},
		{"no answer", fleet.CommandReboot, silent, notHere, fleet.CommandResult{Error: "no answer within 40s"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := open(t, filepath.Join(t.TempDir(), "db"))
				defer b.stop()
				b.site("a", "")
				go serve(b.session("a1", "a"), test.one)
				go serve(b.session("a2", "a"), test.two)
				got := b.command(test.kind)
				if len(got.ID) != 32 || got.MAC != pc1 {
					t.Errorf("result %+v", got)
				}
				got.ID, got.MAC = "", ""
				if got != test.want {
					t.Errorf("got %+v, want %+v", got, test.want)
				}
			})
		})
	}
}

func TestCommandWithoutSatellites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, filepath.Join(t.TempDir(), "db"))
		defer b.stop()
		b.site("a", "")
		b.site("b", "")
		go serve(b.session("b1", "b"), answer(fleet.CommandResult{}))
		if got := b.command(fleet.CommandReboot); got.Error != "no satellite of the site is connected" {
			t.Errorf("got %+v", got)
		}
		s := b.session("a1", "a")
		s.Close()
		if got := b.command(fleet.CommandReboot); got.Error != "no satellite of the site is connected" {
			t.Errorf("after the end: %+v", got)
		}
	})
}

// A satellite that goes away while a command is under way has no answer; the caller does not wait for one.
func TestCommandWhileTheSatelliteGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, filepath.Join(t.TempDir(), "db"))
		defer b.stop()
		b.site("a", "")
		s := b.session("a1", "a")
		go serve(s, func(fleet.Command) *fleet.CommandResult {
			s.Close()
			return nil
		})
		start := time.Now()
		if got := b.command(fleet.CommandReboot); got.Error != "no satellite has a connection to the client" || time.Since(start) != 0 {
			t.Errorf("after %s: %+v", time.Since(start), got)
		}
	})
}

// A satellite of another site, and one that was not asked, cannot answer; a late answer is dropped.
func TestForeignResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, filepath.Join(t.TempDir(), "db"))
		defer b.stop()
		b.site("a", "")
		b.site("b", "")
		other := b.session("b1", "b")
		var id string
		own := b.session("a1", "a")
		go serve(own, func(c fleet.Command) *fleet.CommandResult {
			id = c.ID
			other.Result(fleet.CommandResult{ID: c.ID, Output: "forged"})
			return nil
		})
		if got := b.command(fleet.CommandReboot); !strings.HasPrefix(got.Error, "no answer") {
			t.Errorf("got %+v", got)
		}
		own.Result(fleet.CommandResult{ID: id, Output: "late"})
	})
}

// What nobody waits for is not sent: a stuck satellite must not reboot a PC minutes later.
func TestStaleCommandsAreNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, filepath.Join(t.TempDir(), "db"))
		defer b.stop()
		b.site("a", "")
		s := b.session("a1", "a")
		next(t, s)
		b.command(fleet.CommandReboot) // times out
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.Command(ctx, "a", fleet.Command{MAC: pc2, Kind: fleet.CommandReboot, Timeout: fleet.DefaultCommandTimeout}); !errors.Is(err, context.Canceled) {
			t.Errorf("ended by the caller: %v", err)
		}
		quiet(t, s)
		go serve(s, answer(fleet.CommandResult{Output: "done"}))
		if got := b.command(fleet.CommandReboot); got.Output != "done" {
			t.Errorf("got %+v", got)
		}
	})
}

// A command that follows a change comes after it: what has just been allowed is known to the satellite.
func TestCommandsFollowChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, filepath.Join(t.TempDir(), "db"))
		defer b.stop()
		b.site("a", "")
		s := b.session("a1", "a")
		next(t, s)
		for _, settled := range []time.Duration{0, link.DefaultCoalesce / 2} {
			b.site("a", "allowed after "+settled.String())
			time.Sleep(settled)
			go b.command(fleet.CommandRun)
			synctest.Wait()
			d, took := next(t, s)
			if !strings.HasSuffix(d.Boot.KernelParameters, settled.String()) || took != 0 {
				t.Errorf("state %q after %s", d.Boot.KernelParameters, took)
			}
			m, err := s.Next(t.Context())
			if err != nil || m.Command == nil {
				t.Fatalf("got %+v, %v; want a command", m, err)
			}
			s.Result(fleet.CommandResult{ID: m.Command.ID})
			synctest.Wait()
		}
		quiet(t, s)
	})
}

func TestManyCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, filepath.Join(t.TempDir(), "db"))
		defer b.stop()
		b.site("a", "")
		b.session("a1", "a") // takes none
		const most = 4096
		results := make(chan string, most+1)
		for range most {
			go func() { results <- b.command(fleet.CommandReboot).Error }()
		}
		synctest.Wait()
		if got := b.command(fleet.CommandReboot).Error; !strings.HasPrefix(got, "too many commands") {
			t.Errorf("one too many: %q", got)
		}
		for range most {
			if got := <-results; !strings.HasPrefix(got, "no answer") {
				t.Fatalf("got %q", got)
			}
		}
	})
}

func TestEvents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		b := open(t, path)
		b.site("a", "")
		b.site("b", "")
		s := b.session("a1", "a")
		at := time.Now().Add(-time.Hour)
		s.Events([]fleet.ClientEvent{
			{MAC: pc1, Time: at, Kind: "login-host", Text: "no answer\x1b[2J"}, {MAC: "rubbish"}, {MAC: pc1, Time: at.Add(time.Second), Site: "b", Sequence: 77},
			{MAC: pc2, Time: time.Now().Add(24 * time.Hour), Text: "from the future"},
		})
		b.session("b1", "b").Events([]fleet.ClientEvent{{MAC: pc2}})
		check := func() {
			t.Helper()
			got := b.Events("a")
			if len(got) != 3 || got[2].Text != "no answer [2J" || got[2].Sequence != 1 || got[0].Time.After(time.Now()) || got[1].Site != "a" || len(b.Events("")) != 4 {
				t.Errorf("events %+v", got)
			}
		}
		check()
		b.stop()
		b = open(t, path)
		check()
		s = b.session("a1", "a")
		for i := range 10 {
			var many []fleet.ClientEvent
			for j := range link.MaxEvents + 10 {
				many = append(many, fleet.ClientEvent{MAC: pc1, Text: fmt.Sprint(i, j)})
			}
			s.Events(many)
		}
		time.Sleep(link.DefaultFlushInterval)
		if got := b.Events("a"); len(got) != fleet.MaxClientEvents {
			t.Errorf("%d events are kept", len(got))
		}
		b.stop()
		b = open(t, path) // what was dropped in memory before it could be stored does not leave older ones there
		got := b.Events("a")
		if len(got) != fleet.MaxClientEvents {
			t.Errorf("%d events are kept in the store", len(got))
		}
		for _, e := range got {
			if e.Sequence <= 3+10*link.MaxEvents-fleet.MaxClientEvents {
				t.Fatalf("event %d is still there", e.Sequence)
			}
		}
		b.ForgetSite("a")
		b.session("a1", "a").Events([]fleet.ClientEvent{{MAC: pc1, Text: "of a new site"}})
		b.stop()
		b = open(t, path)
		if got := b.Events("a"); len(got) != 1 || got[0].Sequence != 1 || got[0].Text != "of a new site" || len(b.Events("b")) != 1 {
			t.Errorf("after the site was deleted: %+v", got)
		}
		b.stop()
	})
}
