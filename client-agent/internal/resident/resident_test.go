package resident

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/dhcprenew"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/follower"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// client is a PC that a test can change while its agent runs.
type client struct {
	mu        sync.Mutex
	show      string
	finished  chan struct{}
	keeper    rundir.KeeperState
	leaseTold func(dhcprenew.Status)
	reports   []agentproto.Report
	lines     []agentproto.Message // all but reports
	incoming  func(agentproto.Message)
	sessions  []agentproto.Session
	events    []agentproto.Event
	noPolicy  string
	policy    string // that the satellite names
	applyErr  error
	saved     []agentproto.PolicyReport
	commands  map[string]chan func() error // by ID: when it ends, and what then
	console   bytes.Buffer
}

func (c *client) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *client) systemctl(ctx context.Context, args ...string) (string, error) {
	if args[0] == "is-system-running" {
		select {
		case <-c.finished:
			return "running\n", nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case args[0] == "list-jobs":
		return "1 slow.service start running\n", nil
	case args[0] == "list-units":
		return "cups.service loaded failed failed CUPS\n", nil
	case c.show == "":
		return "", errors.New("hangs")
	}
	return c.show, nil
}

func (c *client) Send(_ context.Context, m agentproto.Message) (agentproto.Ack, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Report != nil {
		c.reports = append(c.reports, *m.Report)
	} else {
		c.lines = append(c.lines, m)
	}
	return agentproto.Ack{Next: agentproto.Duration(time.Minute), Policy: c.policy}, nil
}

func (c *client) Done() <-chan struct{} { return nil }
func (c *client) Err() error            { return nil }
func (c *client) Peer() string          { return "192.168.67.1:7443" }
func (c *client) Close() error          { return nil }

func (c *client) dial(_ context.Context, _ agentproto.Satellite, incoming func(agentproto.Message)) (Session, agentproto.Ack, error) {
	c.set(func() { c.incoming = incoming })
	return c, agentproto.Ack{}, nil
}

// follow is how the policy is followed: each step takes a second.
func (c *client) follow() follower.Config {
	return follower.Config{
		Problem: c.noPolicy,
		Fetch: func(context.Context, agentproto.Satellite) (string, error) {
			time.Sleep(time.Second)
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.policy, nil
		},
		Apply: func(context.Context, string) (follower.Outcome, error) {
			time.Sleep(time.Second)
			return follower.Outcome{Pending: []string{"SWAP needs a reboot"}}, c.applyErr
		},
	}
}

func (c *client) do(ctx context.Context, m agentproto.Command) (agentproto.Result, func() error) {
	c.mu.Lock()
	end := c.commands[m.ID]
	c.mu.Unlock()
	select {
	case then := <-end:
		return agentproto.Result{ID: m.ID, Output: m.Kind}, then
	case <-ctx.Done():
		return agentproto.Result{ID: m.ID, Error: "ended"}, nil
	}
}

func (c *client) takeEvents(int) []agentproto.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.events
	c.events = nil
	return list
}

func (c *client) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.console.Write(p)
}

// last returns the newest report.
func (c *client) last() agentproto.Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reports[len(c.reports)-1]
}

// runClient runs an agent on c until script returns.
func runClient(t *testing.T, c *client, script func()) {
	begin := time.Now()
	c.finished = make(chan struct{})
	c.keeper = rundir.KeeperState{Satellite: "192.168.67.1:10809", Connected: true, Since: begin}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	a := New(Config{
		Boot: &agentproto.BootConfig{Image: "lab", Number: 7, Digest: "d", Satellites: []agentproto.Satellite{{Addr: "192.168.67.1"}}},
		State: rundir.BootState{MAC: "52:54:00:67:00:10", Addr: "192.168.67.20/24", Hostname: "pc07", DHCPServer: "192.168.67.1",
			Timeline: []agentproto.Step{{Name: "kernel"}, {Name: "agent", At: agentproto.Duration(time.Second)}}},
		Uptime: func() time.Duration { return 10*time.Second + time.Since(begin) }, Kernel: "6.1.0",
		Proc: fstest.MapFS{
			"meminfo": {Data: []byte("MemTotal:     1000 kB\nMemFree: 1 kB\nMemAvailable:  500 kB\nodd\n")},
			"loadavg": {Data: []byte("0.42 0.1 0.1 1/100 1234\n")},
		},
		Sys: "/nowhere", Root: t.TempDir(),
		Keeper: func() (*rundir.KeeperState, bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			s := c.keeper
			return &s, true
		},
		Systemctl: c.systemctl,
		Renew: func(ctx context.Context, mac net.HardwareAddr, addr, server netip.Addr, changed func(dhcprenew.Status)) {
			if mac.String() != "52:54:00:67:00:10" || addr.String() != "192.168.67.20" || server.String() != "192.168.67.1" {
				t.Errorf("renew %v %v %v", mac, addr, server)
			}
			c.set(func() { c.leaseTold = changed })
			<-ctx.Done()
		},
		Link: func() agentproto.Link { return agentproto.Link{Name: "eth0", SpeedMbps: 1000, Duplex: "full"} },
		Dial: c.dial, Policy: c.follow(), SavePolicy: func(r agentproto.PolicyReport) { c.set(func() { c.saved = append(c.saved, r) }) },
		Command: c.do, Events: c.takeEvents,
		Sessions: func() []agentproto.Session {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.sessions
		},
		Console: c, Log: quiet,
	})
	go func() { defer close(done); a.Run(ctx) }()
	synctest.Wait()
	script()
	cancel()
	<-done
}

func TestBootToHealthyAndBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &client{show: "SystemState=starting\nNFailedUnits=0\nNJobs=1\nUserspaceTimestampMonotonic=5000000\n"}
		runClient(t, c, func() {
			if r := c.last(); r.State != Starting || len(r.Reasons) != 0 {
				t.Errorf("at first: %+v", r)
			}
			time.Sleep(askStarting + time.Second)
			if r := c.last(); r.State != Starting || !cmp.Equal(r.Reasons, []string{"waiting for slow.service"}) {
				t.Errorf("while starting: %+v", r)
			}
			c.set(func() {
				c.show = "SystemState=running\nNFailedUnits=0\nNJobs=0\nUserspaceTimestampMonotonic=5000000\n"
			})
			close(c.finished)
			synctest.Wait() // at once, not at the next look
			checkHealthy(t, c)

			c.set(func() { c.keeper.Connected, c.keeper.Since = false, time.Now() })
			time.Sleep(watchEvery)
			synctest.Wait()
			if r := c.last(); r.State != Degraded || r.NBD.Connected || !strings.Contains(strings.Join(r.Reasons, " "), "no connection") {
				t.Errorf("connection lost: %+v", r)
			}
			n := len(c.reports)
			time.Sleep(30 * time.Second)
			if len(c.reports) != n {
				t.Errorf("%d reports while only a duration changes", len(c.reports)-n)
			}
			c.set(func() {
				c.keeper.Connected, c.keeper.Reconnects, c.keeper.Satellite = true, 1, "192.168.67.2:10809"
			})
			time.Sleep(watchEvery)
			synctest.Wait()
			if r := c.last(); r.State != Healthy || r.NBD != (agentproto.NBD{Satellite: "192.168.67.2:10809", Connected: true, Reconnects: 1}) {
				t.Errorf("connection back: %+v", r)
			}
		})
		lines := regexp.MustCompile(`(?m)^ltsp-agent: .*$`).FindAllString(c.console.String(), -1)
		if len(lines) != 3 || lines[0] != "ltsp-agent: healthy lab@7 satellite=192.168.67.1 uptime=21s" ||
			!strings.HasPrefix(lines[1], "ltsp-agent: degraded lab@7 satellite=192.168.67.1 uptime=2") ||
			!strings.HasPrefix(lines[2], "ltsp-agent: healthy lab@7 satellite=192.168.67.2 uptime=") {
			t.Errorf("console: %q", lines)
		}
	})
}

func checkHealthy(t *testing.T, c *client) {
	t.Helper()
	got := c.last()
	if got.Time.IsZero() || got.Overlay.SizeBytes == 0 {
		t.Errorf("time %v, overlay %v", got.Time, got.Overlay)
	}
	got.Time, got.Overlay = time.Time{}, agentproto.Fill{}
	second := agentproto.Duration(time.Second)
	want := agentproto.Report{
		State: Healthy, Image: "lab", Number: 7, Digest: "d", Hostname: "pc07", Kernel: "6.1.0", Addr: "192.168.67.20",
		Timeline: []agentproto.Step{
			{Name: "kernel"}, {Name: "agent", At: second}, {Name: "systemd", At: 5 * second}, {Name: "agent-up", At: 10 * second},
			{Name: "healthy", At: 21 * second},
		},
		Memory: agentproto.Memory{TotalBytes: 1000 << 10, AvailableBytes: 500 << 10}, Load1: 0.42, Uptime: 21 * second,
		Link: agentproto.Link{Name: "eth0", SpeedMbps: 1000, Duplex: "full"},
		NBD:  agentproto.NBD{Satellite: "192.168.67.1:10809", Connected: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSystemdThatCannotBeAwaited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &client{}
		runClient(t, c, func() {
			close(c.finished) // says "running" at once, but does not answer the real question
			time.Sleep(20 * time.Second)
			if r := c.last(); r.State != Starting || !strings.Contains(strings.Join(r.Reasons, " "), "systemd does not answer: hangs") {
				t.Errorf("got %+v", r)
			}
			c.set(func() { c.show = "SystemState=degraded\nNFailedUnits=1\nNJobs=0\n" })
			time.Sleep(askStarting + time.Second)
			if r := c.last(); r.State != Degraded || !cmp.Equal(r.Failed, []string{"cups.service"}) {
				t.Errorf("got %+v", r)
			}
			c.set(func() { c.show = "" }) // the root hangs: what was known stays
			time.Sleep(2 * askRunning)
			if r := c.last(); r.State != Degraded || !cmp.Equal(r.Failed, []string{"cups.service"}) {
				t.Errorf("got %+v", r)
			}
		})
	})
}

func TestLeaseIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &client{show: "SystemState=running\nNFailedUnits=0\nNJobs=0\n"}
		runClient(t, c, func() {
			close(c.finished)
			synctest.Wait()
			expires := time.Now().Add(time.Hour)
			c.leaseTold(dhcprenew.Status{Lease: &dhcprenew.Lease{Server: netip.MustParseAddr("192.168.67.1"), Expires: expires}})
			time.Sleep(2 * time.Minute)
			if r := c.last(); r.State != Healthy || r.Lease == nil || r.Lease.Server != "192.168.67.1" || !r.Lease.Expires.Equal(expires) {
				t.Errorf("got %+v", r)
			}
			c.leaseTold(dhcprenew.Status{Problem: "refused"})
			synctest.Wait()
			if r := c.last(); r.State != Degraded || !cmp.Equal(r.Reasons, []string{"refused"}) {
				t.Errorf("got %+v", r)
			}
		})
	})
}

func TestGatherErrors(t *testing.T) {
	t.Parallel()
	if _, err := memory(fstest.MapFS{}); err == nil {
		t.Error("memory from nothing")
	}
	for _, text := range []string{"", "x y", "-1 0", "1e9 0"} {
		if _, err := load(fstest.MapFS{"loadavg": {Data: []byte(text)}}); err == nil {
			t.Errorf("load from %q", text)
		}
	}
	if _, err := fill("/no/such/place"); err == nil {
		t.Error("fill of nothing")
	}
}
