package accounts

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

func TestBelievable(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before, now sizes
		short       time.Duration
		want        bool
	}{
		"the same":                {sizes{500, 60}, sizes{500, 60}, 0, true},
		"more":                    {sizes{500, 60}, sizes{900, 90}, 0, true},
		"the first":               {sizes{}, sizes{500, 60}, 0, true},
		"half":                    {sizes{500, 60}, sizes{250, 30}, 0, true},
		"more than half of users": {sizes{500, 60}, sizes{249, 60}, 0, false},
		"of groups":               {sizes{500, 60}, sizes{500, 29}, 0, false},
		"all":                     {sizes{5, 0}, sizes{}, 0, false},
		"all of a few":            {sizes{4, 4}, sizes{}, 0, true},
		"users for groups":        {sizes{500, 60}, sizes{100, 600}, 0, false},
		"for some time":           {sizes{500, 60}, sizes{3, 1}, shortTime - 1, false},
		"for long":                {sizes{500, 60}, sizes{3, 1}, shortTime, true},
	} {
		if got := believable(c.before, c.now, c.short); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	const passwd = "root:x:0:0::/root:/bin/sh\ndaemon:x:999:999::/:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\nben:x:1700000001:1::/home/ben:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
	if n := countIDs(passwd); n != 2 {
		t.Errorf("%d users, want 2", n)
	}
	if n := countIDs("root:x:0:\nnogroup:x:65534:\npupils:x:1000:anna,ben\n"); n != 1 {
		t.Errorf("%d groups, want 1", n)
	}
}

// list is accounts of root and n others.
func list(n int) texts {
	passwd, group := []string{"root:x:0:0::/root:/bin/sh"}, []string{"root:x:0:"}
	for i := range n {
		passwd, group = append(passwd, fmt.Sprintf("u%d:x:%d:%d::/home/u%d:/bin/sh", i, 2000+i, 2000+i, i)), append(group, fmt.Sprintf("u%d:x:%d:", i, 2000+i))
	}
	return texts{strings.Join(passwd, "\n"), strings.Join(group, "\n")}
}

// shortTest is a Watcher that is told what a login host sends.
type shortTest struct {
	*Watcher
	t       *testing.T
	host    config.LoginHost
	now     time.Time
	changes int
	problem string
}

func newShortTest(t *testing.T, dir string, now time.Time) *shortTest {
	t.Helper()
	s := &shortTest{t: t, host: config.LoginHost{Address: "10.0.0.5", Port: 22, User: "reader"}, now: now}
	var err error
	s.Watcher, err = New(Config{Dir: dir, Now: func() time.Time { return s.now }, Metrics: prometheus.NewRegistry(), Changed: func(string, Accounts) { s.changes++ },
		Problem: func(key, text string) {
			if key == shortKey {
				s.problem = text
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	s.begin(s.host)
	return s
}

// gets has the host send a list after some time.
func (s *shortTest) gets(after time.Duration, users int) {
	s.t.Helper()
	s.now = s.now.Add(after)
	if err := s.found(s.host, list(users), nil, s.takeUnlessShort); err != nil {
		s.t.Fatal(err)
	}
}

// alive has the host send a sign of life after some time.
func (s *shortTest) alive(after time.Duration) {
	s.now = s.now.Add(after)
	s.unchanged()
}

func (s *shortTest) want(what string, users, changes int, held bool) {
	s.t.Helper()
	st := s.Status()
	if st.State != OK || st.Users != users || st.Held != held || s.changes != changes || (s.problem != "") != held {
		s.t.Errorf("%s: status %+v, %d changes, problem %q; want %d users, %d changes, held: %v", what, st, s.changes, s.problem, users, changes, held)
	}
}

func TestShortListWaits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShortTest(t, dir, time.Unix(1e9, 0))
	s.gets(0, 40)
	s.gets(time.Minute, 30)
	s.want("a few less", 30, 2, false)
	s.gets(time.Minute, 3)
	s.want("a short list", 30, 2, true)
	if !strings.Contains(s.problem, "lists 3 users and 3 groups, before it had 30 and 30") || !strings.Contains(s.problem, "keep the accounts of 2001-09-09T01:47:40Z") ||
		!strings.Contains(s.problem, "at 2001-09-09T02:48:40Z") {
		t.Errorf("told %q", s.problem)
	}
	s.alive(shortTime - time.Minute)
	s.gets(30*time.Second, 4)
	s.want("another short list", 30, 2, true)
	s.gets(time.Second, 30)
	s.want("the long list again", 30, 2, false)
	s.gets(time.Second, 4)
	s.alive(shortTime - 1)
	s.want("the time began anew", 30, 2, true)
	s.alive(1)
	s.want("short for long", 4, 3, false)
	if l := s.load(); l == nil || l.Count != 4 || !l.Updated.Equal(s.now) {
		t.Errorf("stored: %+v", l)
	}
}

func TestShortListAfterAnInterruption(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShortTest(t, dir, time.Unix(1e9, 0))
	s.gets(0, 30)
	s.gets(0, 3)
	s.now = s.now.Add(shortTime)
	s.failed(s.host, fmt.Errorf("the command ended"), time.Second)
	if s.problem != "" || s.Status().Held {
		t.Errorf("after a failure: %+v, told %q", s.Status(), s.problem)
	}
	s.gets(0, 3)
	s.want("the host comes back with a short list", 30, 1, true)
	// The satellite starts again.
	s = newShortTest(t, dir, s.now.Add(shortTime))
	s.gets(0, 3)
	s.want("after a restart", 30, 1, true)
	// Another login host's list is compared with nothing.
	s.host.Address = "10.0.0.6"
	s.begin(s.host)
	s.gets(0, 2)
	s.want("of another host", 2, 2, false)
}

// TestShortListOverSSH has the whole way, with the metric.
func TestShortListOverSSH(t *testing.T) {
	t.Parallel()
	send := func(users int) string { l := list(users); return frame(l.passwd, l.group) }
	more := make(chan string)
	s := newSSHD(t, prints(send(6), more))
	reg := prometheus.NewRegistry()
	clock := make(chan time.Duration, 1)
	clock <- 0
	short := make(chan string, 10)
	w := watch(t, t.TempDir(), func(c *Config) {
		c.Metrics = reg
		c.Now = func() time.Time { d := <-clock; clock <- d; return time.Unix(1e9, 0).Add(d) }
		c.Problem = func(key, text string) {
			if key == shortKey && text != "" {
				short <- text
			}
		}
	})
	w.SetHost(s.host(s.key))
	w.expect("127.0.0.1: root u0 u1 u2 u3 u4 u5 []")
	more <- send(1)
	await(t, "problem", short)
	if err := testutil.GatherAndCompare(reg, strings.NewReader("# HELP ltsp_satellite_accounts_held 1 while the login host's list is much shorter than the known one and does not count yet.\n"+
		"# TYPE ltsp_satellite_accounts_held gauge\nltsp_satellite_accounts_held 1\n"), "ltsp_satellite_accounts_held"); err != nil {
		t.Error(err)
	}
	more <- aliveMark + "\n"
	<-clock
	clock <- shortTime
	more <- aliveMark + "\n"
	w.expect("127.0.0.1: root u0 []")
}
