package reports

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// shelf gives every client the same policy.
type shelf struct {
	mu    sync.Mutex
	text  string            // of the state; empty: none is known
	blobs map[string][]byte // what it names
}

func (s *shelf) set(text string, blobs ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text, s.blobs = text, make(map[string][]byte)
	for _, b := range blobs {
		s.blobs[agentproto.Digest([]byte(b))] = []byte(b)
	}
}

func (s *shelf) policy(string, netip.Addr, netip.Addr) (Policy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.text == "" {
		return Policy{}, errors.New("no policy is in force")
	}
	blobs := s.blobs
	return Policy{Text: []byte(s.text), SHA256: agentproto.Digest([]byte(s.text)), Open: func(name string) (io.ReadCloser, int64, error) {
		data, ok := blobs[name]
		if !ok {
			return nil, 0, errNotNamed
		}
		return io.NopCloser(bytes.NewReader(data)), int64(len(data)), nil
	}}, nil
}

// fetch asks for a name and returns the bytes, or what the satellite says in their stead.
func (a *agent) fetch(name string) (data []byte, refusal string) {
	a.t.Helper()
	if err := a.Write(agentproto.Message{Fetch: &agentproto.Fetch{Name: name}}); err != nil {
		a.t.Fatal(err)
	}
	m := a.next()
	if m.Ack != nil {
		return nil, m.Ack.Error
	}
	if m.Blob == nil {
		a.t.Fatalf("answer %+v", m)
	}
	var buf bytes.Buffer
	if err := a.ReadBlob(*m.Blob, &buf); err != nil {
		a.t.Fatal(err)
	}
	return buf.Bytes(), ""
}

func TestFetch(t *testing.T) {
	t.Parallel()
	s := new(shelf)
	l := newLab(t, func(c *Config) { c.Policy = s.policy })
	archive := strings.Repeat("archive\n", 100_000)
	reporting, a := l.dial(), l.dial()
	reporting.say(hello(pc, token))
	if ack := a.say(fetchHello(pc, token)); ack.Error != "" || ack.Policy != "" {
		t.Errorf("answer %+v", ack)
	}
	if _, why := a.fetch(agentproto.PolicyName); why != "no policy is in force" {
		t.Errorf("without a policy: %q", why)
	}
	s.set("state 1", archive, "")
	name := agentproto.Digest([]byte(archive))
	if _, why := a.fetch(name); why == "" {
		t.Error("an archive was given out before the state that names it")
	}
	for want, name := range map[string]string{"state 1": agentproto.PolicyName} {
		if got, why := a.fetch(name); string(got) != want {
			t.Errorf("%s: %q, %s", name, got, why)
		}
	}
	for range 2 {
		if got, why := a.fetch(name); string(got) != archive {
			t.Errorf("%d bytes, %s", len(got), why)
		}
	}
	if got, why := a.fetch(agentproto.Digest(nil)); len(got) != 0 || why != "" {
		t.Errorf("empty blob: %d bytes, %s", len(got), why)
	}
	if _, why := a.fetch(agentproto.Digest([]byte("secret"))); why != errNotNamed.Error() {
		t.Errorf("what the state does not name: %q", why)
	}
	// What the last state on this stream named is still there when the policy has changed.
	s.set("state 2")
	if got, why := a.fetch(name); string(got) != archive {
		t.Errorf("after a change: %d bytes, %s", len(got), why)
	}
	if ack := reporting.say(report("healthy")); ack.Error != "" || ack.Policy != agentproto.Digest([]byte("state 2")) {
		t.Errorf("the report stream beside it: %+v", ack)
	}
	a.conn.Close()
	l.stop()
	if n := testutil.ToFloat64(l.metrics.fetching); n != 0 || l.fetching != 0 {
		t.Errorf("%v fetch streams left", n)
	}
	if strings.Contains(strings.Join(l.registry.seen, "\n"), "hello "+pc+" from 127.0.0.1\nhello") {
		t.Errorf("the fetch stream said hello to the registry: %q", l.registry.seen)
	}
}

func TestFetchLimits(t *testing.T) {
	t.Parallel()
	s := new(shelf)
	s.set("state", strings.Repeat("x", 1000))
	l := newLab(t, func(c *Config) {
		c.Policy = s.policy
		c.MaxFetches, c.MaxStreamFetches, c.MaxStreamBytes = 1, 4, 1500
	})
	a, b := l.dial(), l.dial()
	a.say(fetchHello(pc, token))
	if ack := b.say(fetchHello(pc, token)); !strings.Contains(ack.Error, "1 clients fetch at present") {
		t.Errorf("one too many: %+v", ack)
	}
	b.over()
	a.fetch(agentproto.PolicyName)
	name := agentproto.Digest([]byte(strings.Repeat("x", 1000)))
	if got, why := a.fetch(name); len(got) != 1000 {
		t.Errorf("first: %s", why)
	}
	if _, why := a.fetch(name); !strings.Contains(why, "more than 1500 bytes") {
		t.Errorf("bytes: %q", why)
	}
	a.fetch(name)
	if _, why := a.fetch(name); !strings.Contains(why, "more than 4 fetches") {
		t.Errorf("fetches: %q", why)
	}
	a.conn.Close()
	// The place is free again when the satellite has seen the end.
	for deadline := time.Now().Add(20 * time.Second); l.fetchStreams() > 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the place is not free again")
		}
	}
	if ack := l.dial().say(fetchHello(pc, token)); ack.Error != "" {
		t.Errorf("after the other has ended: %+v", ack)
	}
}

func (s *Server) fetchStreams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetching
}

func TestNotices(t *testing.T) {
	t.Parallel()
	s := new(shelf)
	s.set("state 1")
	l := newLab(t, func(c *Config) { c.Policy = s.policy })
	a := l.dial()
	if ack := a.say(hello(pc, token)); ack.Policy != agentproto.Digest([]byte("state 1")) {
		t.Errorf("the hello's answer names policy %q", ack.Policy)
	}
	l.PolicyChanged() // it has not, for this client
	s.set("")
	l.PolicyChanged() // none is known: nothing to tell
	s.set("state 2")
	l.PolicyChanged()
	if m := a.next(); m.Notice == nil || m.Notice.Policy != agentproto.Digest([]byte("state 2")) {
		t.Errorf("got %+v, want a notice", m)
	}
	// An answer tells of the policy too; then no notice is needed.
	s.set("state 3")
	if ack := a.say(report("healthy")); ack.Policy != agentproto.Digest([]byte("state 3")) {
		t.Errorf("answer %+v", ack)
	}
	l.PolicyChanged()
	s.set("state 4")
	l.PolicyChanged()
	if m := a.next(); m.Notice == nil || m.Notice.Policy != agentproto.Digest([]byte("state 4")) {
		t.Errorf("got %+v, want a notice", m)
	}
}

// TestSchoolIsTold tells 200 clients of a new policy while they report.
func TestSchoolIsTold(t *testing.T) {
	t.Parallel()
	s := new(shelf)
	s.set("state 1")
	l := newLab(t, func(c *Config) {
		c.Policy = s.policy
		c.MaxPerAddress = 300
		c.HandshakeTimeout = time.Minute
		c.MaxLines = 100_000
	})
	agents := make([]*agent, 200)
	for i := range agents {
		agents[i] = l.dial()
		agents[i].say(hello(fmt.Sprintf("52:54:00:00:00:%02x", i), token))
	}
	s.set("state 2")
	l.PolicyChanged()
	want := agentproto.Digest([]byte("state 2"))
	var wg sync.WaitGroup
	for i, a := range agents {
		wg.Go(func() {
			reports := 0
			if i%2 == 0 { // the others are silent and can only be told by a notice
				reports = 3
			}
			for range reports {
				if err := a.Write(report("healthy")); err != nil {
					t.Error(err)
					return
				}
			}
			for told := false; reports > 0 || !told; {
				m, err := a.Read()
				switch {
				case err != nil:
					t.Error(err)
					return
				case m.Notice != nil:
					told = m.Notice.Policy == want
				case m.Ack != nil:
					reports--
					told = told || m.Ack.Policy == want
				}
			}
		})
	}
	wg.Wait()
	l.stop()
	if n := testutil.ToFloat64(l.metrics.notices); n < 100 || n > 200 {
		t.Errorf("%v notices", n)
	}
}

const commandID = "c0ffee00c0ffee00c0ffee00c0ffee00"

// order gives a command in the background.
func (l *lab) order(ctx context.Context, c agentproto.Command) <-chan string {
	out := make(chan string, 1)
	go func() {
		r, err := l.Command(ctx, pc, c)
		out <- fmt.Sprintf("%s %d %s %v", r.ID, r.Exit, r.Output, err)
	}()
	return out
}

func TestCommand(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	a := l.dial()
	a.say(hello(pc, token))
	c := agentproto.Command{ID: commandID, Kind: agentproto.CommandRun, Args: []string{"id"}}
	end := l.order(t.Context(), c)
	m := a.next()
	if diff := cmp.Diff(&c, m.Command); diff != "" {
		t.Fatalf("command (-want +got):\n%s", diff)
	}
	if ack := a.say(report("healthy")); ack.Error != "" {
		t.Errorf("report in between: %s", ack.Error)
	}
	a.say(agentproto.Message{Result: &agentproto.Result{ID: strings.Repeat("0", 32)}}) // nobody waits for it
	a.say(agentproto.Message{Result: &agentproto.Result{ID: commandID, Exit: 3, Output: "uid=0"}})
	if got, want := <-end, commandID+" 3 uid=0 <nil>"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := l.Command(t.Context(), "52:54:00:00:00:99", c); !errors.Is(err, ErrNotConnected) {
		t.Errorf("client that is not there: %v", err)
	}
	if _, err := l.Command(t.Context(), pc, agentproto.Command{Kind: "x"}); !errors.Is(err, agentproto.ErrBadMessage) {
		t.Errorf("command without an ID: %v", err)
	}
	long := agentproto.Command{ID: commandID, Kind: agentproto.CommandMessage, Text: strings.Repeat("\x01", agentproto.MaxCommandText), Args: []string{strings.Repeat("\x01", agentproto.MaxCommandArgBytes)}}
	if r, err := l.Command(t.Context(), pc, long); err != nil || !strings.Contains(r.Error, "longer than") {
		t.Errorf("command that fits into no line: %+v, %v", r, err)
	}
	late, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if _, err := l.Command(late, pc, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("client that does not answer: %v", err)
	}
	end = l.order(t.Context(), agentproto.Command{ID: strings.Repeat("1", 32), Kind: agentproto.CommandReboot})
	for m := a.next(); m.Command.Kind != agentproto.CommandReboot; m = a.next() {
	}
	a.conn.Close()
	if got := <-end; !strings.Contains(got, ErrLost.Error()) {
		t.Errorf("client that goes away: %s", got)
	}
	l.stop()
	for result, want := range map[string]float64{"answered": 2, "absent": 1, "refused": 1, "timeout": 1, "lost": 1} {
		if n := testutil.ToFloat64(l.metrics.commands.WithLabelValues(result)); n != want {
			t.Errorf("%v commands ended as %s, want %v", n, result, want)
		}
	}
}

func TestCommandsOfOneClientAreBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	a := l.dial()
	a.say(hello(pc, token))
	ctx, cancel := context.WithCancel(t.Context())
	var ends []<-chan string
	for i := range maxCommands {
		ends = append(ends, l.order(ctx, agentproto.Command{ID: fmt.Sprintf("%032d", i), Kind: agentproto.CommandLogs}))
		a.next()
	}
	if _, err := l.Command(ctx, pc, agentproto.Command{ID: commandID, Kind: agentproto.CommandLogs}); !errors.Is(err, ErrBusy) {
		t.Errorf("one too many: %v", err)
	}
	a.say(agentproto.Message{Result: &agentproto.Result{ID: fmt.Sprintf("%032d", 0)}})
	<-ends[0]
	if got := l.order(ctx, agentproto.Command{ID: fmt.Sprintf("%032d", 1), Kind: agentproto.CommandLogs}); !strings.Contains(<-got, "under way already") {
		t.Error("the same command was given twice")
	}
	cancel()
	for _, end := range ends[1:] {
		<-end
	}
}

// TestForeignAddress: a stream from elsewhere may report, but is told no commands and does not take the place of the client's own.
func TestForeignAddress(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.registry.doubt(pc, true)
	foreign := l.dial()
	if ack := foreign.say(hello(pc, token)); ack.Error != "" {
		t.Fatal(ack.Error)
	}
	c := agentproto.Command{ID: commandID, Kind: agentproto.CommandReboot}
	if _, err := l.Command(t.Context(), pc, c); !errors.Is(err, ErrNotConnected) {
		t.Errorf("command by a foreign stream: %v", err)
	}
	if ack := l.dial().say(fetchHello(pc, token)); !strings.Contains(ack.Error, "address") {
		t.Errorf("fetch from a foreign address: %+v", ack)
	}
	l.registry.doubt(pc, false)
	own := l.dial()
	own.say(hello(pc, token))
	foreign.over()
	l.registry.doubt(pc, true)
	foreign = l.dial()
	foreign.say(hello(pc, token))
	end := l.order(t.Context(), c)
	if m := own.next(); m.Command == nil {
		t.Fatalf("the client's own stream got %+v", m)
	}
	own.say(agentproto.Message{Result: &agentproto.Result{ID: commandID}})
	if got := <-end; !strings.Contains(got, "<nil>") {
		t.Errorf("command: %s", got)
	}
	if ack := foreign.say(report("healthy")); ack.Error != "" {
		t.Errorf("report of the foreign stream: %s", ack.Error)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	l := newLab(t, func(c *Config) {
		c.Event = func(mac string, e agentproto.Event) { got <- mac + " " + e.Kind + " " + e.Text }
	})
	a := l.dial()
	a.say(hello(pc, token))
	if ack := a.say(agentproto.Message{Event: &agentproto.Event{Kind: agentproto.EventHostKey, Text: "has changed"}}); ack.Error != "" {
		t.Error(ack.Error)
	}
	if e := <-got; e != pc+" host-key has changed" {
		t.Errorf("event %q", e)
	}
}
