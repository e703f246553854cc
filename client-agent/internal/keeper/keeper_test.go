package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nbdclient"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nbdlink"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
)

var errClosed = errors.New("monitor closed")

// site plays the satellites and the kernel of one PC.
type site struct {
	t      *testing.T
	dead   chan struct{}
	refuse error // of the next Reconfigure

	mu     sync.Mutex
	behave map[string]func(context.Context) error // by address; nil answers at once

	begin  time.Time
	events []string
	saved  []rundir.KeeperState
}

func (s *site) log(format string, args ...any) {
	s.events = append(s.events, fmt.Sprintf("%v ", time.Since(s.begin))+fmt.Sprintf(format, args...))
}

func (s *site) behaviourOf(addr string) func(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.behave[addr]
}

func (s *site) change(behave behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behave = behave
}

func blackHole(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func refused(context.Context) error { return syscall.ECONNREFUSED }

func slow(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// runSite runs a keeper with satellites a, b and c, a in use, kills the connection and lets time pass.
func runSite(t *testing.T, behave map[string]func(context.Context) error, script func(*site)) *site {
	s := &site{t: t, dead: make(chan struct{}), behave: behave, begin: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- Run(ctx, Config{
			Device:  nbdlink.Device{Index: 0},
			Targets: []nbdclient.Target{{Addr: "a"}, {Addr: "b"}, {Addr: "c"}},
			Current: "a",
			WaitDead: func() error {
				if _, ok := <-s.dead; !ok {
					return errClosed
				}
				return nil
			},
			Open: func(ctx context.Context, target nbdclient.Target) (*os.File, nbdclient.Info, error) {
				if f := s.behaviourOf(target.Addr); f != nil {
					if err := f(ctx); err != nil {
						return nil, nbdclient.Info{}, fmt.Errorf("%s: %w", target.Addr, err)
					}
				}
				f, err := os.Open(os.DevNull)
				return f, nbdclient.Info{}, err
			},
			Reconfigure: func(_ nbdlink.Device, f *os.File) error {
				if _, err := f.Stat(); err != nil {
					t.Errorf("the kernel is given a closed socket: %v", err)
				}
				err := s.refuse
				s.refuse = nil
				return err
			},
			Save: func(state rundir.KeeperState) error {
				word := "lost"
				if state.Connected {
					word = "connected"
				} else if state.Error != "" {
					word = "waiting"
				}
				s.log("%s %s %d", word, state.Satellite, state.Reconnects)
				s.saved = append(s.saved, state)
				return nil
			},
		})
	}()
	synctest.Wait()
	script(s)
	synctest.Wait()
	cancel()
	close(s.dead)
	if err := <-ended; !errors.Is(err, errClosed) && !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	return s
}

type behaviour = map[string]func(context.Context) error

func TestFailover(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		behave behaviour
		want   []string
	}{
		{"daemon restarted", nil, []string{"0s connected a 0", "0s lost a 0", "0s connected a 1"}},
		{"machine is there, daemon gone", behaviour{"a": refused}, []string{"0s connected a 0", "0s lost a 0", "0s connected b 1"}},
		{"machine gone", behaviour{"a": blackHole}, []string{"0s connected a 0", "0s lost a 0", "100ms connected b 1"}},
		{"two gone", behaviour{"a": blackHole, "b": blackHole}, []string{"0s connected a 0", "0s lost a 0", "200ms connected c 1"}},
		{"last one is slow, second quick", behaviour{"a": slow(150 * time.Millisecond), "b": slow(time.Second)},
			[]string{"0s connected a 0", "0s lost a 0", "150ms connected a 1"}},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			s := runSite(t, tt.behave, func(s *site) {
				s.dead <- struct{}{}
				time.Sleep(2 * time.Second)
			})
			if diff := cmp.Diff(tt.want, s.events); diff != "" {
				t.Errorf("%s: %s", tt.name, diff)
			}
		})
	}
}

func TestStaysWhereItIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := runSite(t, behaviour{"a": refused}, func(s *site) {
			s.dead <- struct{}{}
			synctest.Wait()
			s.change(nil) // a is back, but b works
			s.dead <- struct{}{}
			synctest.Wait()
		})
		want := []string{"0s connected a 0", "0s lost a 0", "0s connected b 1", "0s lost b 1", "0s connected b 2"}
		if diff := cmp.Diff(want, s.events); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWaitsForTheFirstToComeBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := behaviour{"a": refused, "b": refused, "c": refused}
		s := runSite(t, all, func(s *site) {
			s.dead <- struct{}{}
			time.Sleep(12 * time.Second)
			s.change(behaviour{"a": refused, "b": refused})
			time.Sleep(time.Second)
		})
		last := s.saved[len(s.saved)-1]
		if !last.Connected || last.Satellite != "c" || last.Reconnects != 1 || last.Error != "" {
			t.Errorf("ended as %+v", last)
		}
		if stall := last.Since.Sub(s.begin); stall < 12*time.Second || stall > 12*time.Second+roundPause*3/2 {
			t.Errorf("back after %v", stall)
		}
		if n := len(s.saved); n != 4 { // connected, lost, waiting, connected
			t.Errorf("state saved %d times: %v", n, s.events)
		}
		if e := s.saved[2].Error; !strings.Contains(e, "a: connection refused; b: ") {
			t.Errorf("the reason is told as %q", e)
		}
	})
}

func TestKernelRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := runSite(t, nil, func(s *site) {
			s.refuse = syscall.EINVAL
			s.dead <- struct{}{}
			time.Sleep(time.Second)
		})
		last := s.saved[len(s.saved)-1]
		if !last.Connected || last.Reconnects != 1 {
			t.Errorf("ended as %+v", last)
		}
	})
}

func TestEndsWhileSearching(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := runSite(t, behaviour{"a": blackHole, "b": blackHole, "c": blackHole}, func(s *site) {
			s.dead <- struct{}{}
			time.Sleep(time.Minute)
		})
		if n := len(s.saved); n != 4 { // connected, lost, and twice the reason
			t.Errorf("state saved %d times in a minute: %v", n, s.events)
		}
	})
}

func TestFileRanges(t *testing.T) {
	t.Parallel()
	maps := `00400000-005f1000 r-xp 00000000 00:1d 12  /run/ltsp/agent
005f1000-00800000 r--p 001f1000 00:1d 12                                 /run/ltsp/agent
c000000000-c000400000 rw-p 00000000 00:00 0
7ffd0000-7ffe0000 rw-p 00000000 00:00 0                                  [stack]
nonsense
zz-yy r-xp 0 0 0 /x
`
	want := []addrRange{{0x400000, 0x5f1000}, {0x5f1000, 0x800000}}
	if diff := cmp.Diff(want, fileRanges([]byte(maps)), cmp.AllowUnexported(addrRange{})); diff != "" {
		t.Error(diff)
	}
}
