package upstream_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream/fakecontroller"
)

// problems collects what a client tells of by key.
type problems struct {
	mu   sync.Mutex
	last map[string]string
}

func (p *problems) set(key, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = make(map[string]string)
	}
	p.last[key] = text
}

func (p *problems) get(key string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last[key]
}

func TestDesiredPolicy(t *testing.T) {
	c := fakecontroller.Start(t)
	told := new(problems)
	s := start(t, join(t, c), func(cfg *upstream.Config) { cfg.Problem = told.set })
	wait(t, "first state", s.desired)
	sum := sha256.Sum256([]byte("archive"))
	layer := func(scope string) *satellitev1.PolicyLayer {
		return &satellitev1.PolicyLayer{Scope: scope, Number: 2, Sha256: sum[:], SizeBytes: 7}
	}
	c.Want(func(d *satellitev1.DesiredState) {
		d.Policies = []*satellitev1.PolicyLayer{layer("organisation"), layer("room/hill/r1")}
		d.LoginHost = &satellitev1.LoginHost{Address: "login.school.example", HostKeys: []string{" ssh-ed25519 AAAA "}}
		d.Commands = []string{"reboot"}
		d.Subnets = []*satellitev1.Subnet{{Name: "a", Cidr: "10.0.0.0/24", Mode: satellitev1.DhcpMode_DHCP_MODE_OFF, Room: "r1"}}
		d.Clients = []*satellitev1.Client{{Mac: "52:54:00:00:00:01", Room: "r2"}}
	})
	d := wait(t, "state", s.desired)
	want := []config.PolicyLayer{{Scope: "organisation", Number: 2, SHA256: sum, Size: 7}, {Scope: "room/hill/r1", Number: 2, SHA256: sum, Size: 7}}
	if diff := cmp.Diff(want, d.Policies); diff != "" || d.PoliciesUnusable != "" {
		t.Errorf("policies (-want +got):\n%s%s", diff, d.PoliciesUnusable)
	}
	login := config.LoginHost{Address: "login.school.example", Port: 22, User: "ltsp", HostKeys: []string{"ssh-ed25519 AAAA"}}
	if diff := cmp.Diff(login, d.Login); diff != "" {
		t.Errorf("login host (-want +got):\n%s", diff)
	}
	if len(d.Commands) != 1 || d.Subnets[0].Room != "r1" || d.Clients[0].Room != "r2" {
		t.Errorf("state is %+v", d)
	}
	for name, change := range map[string]func(*satellitev1.DesiredState){
		"digest": func(d *satellitev1.DesiredState) { d.Policies[1].Sha256 = sum[:31] },
		"twice":  func(d *satellitev1.DesiredState) { d.Policies[1].Scope = "organisation" },
		"scope":  func(d *satellitev1.DesiredState) { d.Policies[1].Scope = "school" },
		"number": func(d *satellitev1.DesiredState) { d.Policies[1].Number = 0 },
		"size":   func(d *satellitev1.DesiredState) { d.Policies[1].SizeBytes = 1 << 40 },
	} {
		c.Want(func(d *satellitev1.DesiredState) {
			d.Policies = []*satellitev1.PolicyLayer{layer("organisation"), layer("site/hill")}
			change(d)
		})
		if d := wait(t, "state", s.desired); d.Policies != nil || d.PoliciesUnusable == "" || !strings.Contains(told.get("desired"), "policy is ignored") {
			t.Errorf("%s: policies %v, unusable %q, told %q", name, d.Policies, d.PoliciesUnusable, told.get("desired"))
		}
	}
	for name, l := range map[string]*satellitev1.LoginHost{
		"address": {Address: "a b"}, "port": {Address: "a", Port: 70_000}, "key": {Address: "a", HostKeys: []string{"x\ny"}}, "keys": {Address: "a", HostKeys: make([]string, 99)},
	} {
		c.Want(func(d *satellitev1.DesiredState) { d.Policies, d.LoginHost = nil, l })
		if d := wait(t, "state", s.desired); d.Login.Address != "" || !strings.Contains(told.get("desired"), "login host") {
			t.Errorf("%s: login host %+v, told %q", name, d.Login, told.get("desired"))
		}
	}
}

func TestFetchPolicy(t *testing.T) {
	c := fakecontroller.Start(t)
	s := start(t, join(t, c), func(cfg *upstream.Config) { cfg.StallTimeout = 300 * time.Millisecond })
	archive := bytes.Repeat([]byte("0123456789"), 1000)
	p := c.Policy("organisation", 1, archive)
	l := config.PolicyLayer{Scope: "organisation", Number: 1, SHA256: [32]byte(p.GetSha256()), Size: int64(len(archive))}
	wait(t, "connection", s.online)
	var got bytes.Buffer
	if err := s.FetchPolicy(t.Context(), l, &got); err != nil || !bytes.Equal(got.Bytes(), archive) {
		t.Fatalf("%d bytes, %v", got.Len(), err)
	}
	unknown := l
	unknown.SHA256[0] ^= 1
	if err := s.FetchPolicy(t.Context(), unknown, io.Discard); !errors.Is(err, upstream.ErrNotAssigned) {
		t.Errorf("unknown archive: %v", err)
	}
	longer, shorter := l, l
	longer.Size++
	shorter.Size--
	if err := s.FetchPolicy(t.Context(), longer, io.Discard); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("archive that is too short: %v", err)
	}
	if err := s.FetchPolicy(t.Context(), shorter, io.Discard); err == nil {
		t.Error("an archive that is too long was taken")
	}
	c.Do(func(c *fakecontroller.Controller) { c.Hang = true })
	if err := s.FetchPolicy(t.Context(), l, io.Discard); err == nil || !strings.Contains(err.Error(), "nothing arrived") {
		t.Errorf("silent controller: %v", err)
	}
	c.Stop()
	if wait(t, "loss", s.online) {
		t.Fatal("online")
	}
	if err := s.FetchPolicy(t.Context(), l, io.Discard); !errors.Is(err, upstream.ErrOffline) {
		t.Errorf("offline: %v", err)
	}
}

func TestCommandsAndResults(t *testing.T) {
	c := fakecontroller.Start(t)
	commands := make(chan config.Command, 10)
	results := make(chan config.CommandResult, 10)
	results <- config.CommandResult{ID: "stale"} // of a stream that has ended
	s := start(t, join(t, c), func(cfg *upstream.Config) {
		cfg.Command = func(c config.Command) { commands <- c }
		cfg.Results = results
	})
	wait(t, "first state", s.desired)
	wait(t, "report", c.Reports)
	const id = "00112233445566778899aabbccddeeff"
	c.Command(&satellitev1.ClientCommand{Id: "short", Mac: "52:54:00:00:00:01", Kind: "reboot"}) // is ignored
	c.Command(&satellitev1.ClientCommand{Id: id, Mac: "nonsense", Kind: "reboot"})               // this too
	c.Command(&satellitev1.ClientCommand{Id: id, Mac: "52-54-00-00-00-0A", Kind: "run", Args: []string{"true"}, Text: "t", Timeout: durationpb.New(time.Second)})
	want := config.Command{ID: id, MAC: "52:54:00:00:00:0a", Kind: "run", Args: []string{"true"}, Text: "t", Timeout: time.Second}
	if diff := cmp.Diff(want, wait(t, "command", commands)); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	results <- config.CommandResult{ID: id, MAC: want.MAC, Error: "e", Output: "o", Exit: 3, NotHere: true}
	r := wait(t, "result", c.Results)
	if r.GetId() != id || r.GetMac() != want.MAC || r.GetError() != "e" || r.GetOutput() != "o" || r.GetExit() != 3 || !r.GetNotHere() {
		t.Errorf("result is %v", r)
	}
}

// eventBook is an EventSource.
type eventBook struct {
	notify chan struct{}
	mu     sync.Mutex
	events []upstream.ClientEvent
}

func (b *eventBook) Notify() <-chan struct{} { return b.notify }

func (b *eventBook) Pending() []upstream.ClientEvent {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.events
}

func (b *eventBook) Sent(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = b.events[n:]
}

func TestEventsComeInBatches(t *testing.T) {
	c := fakecontroller.Start(t)
	book := &eventBook{notify: make(chan struct{}, 1), events: make([]upstream.ClientEvent, 700)}
	book.events[0] = upstream.ClientEvent{MAC: "52:54:00:00:00:01", Time: time.Unix(1_800_000_000, 0), Kind: "policy", Text: "t"}
	start(t, join(t, c), func(cfg *upstream.Config) { cfg.Events = book })
	first, second := wait(t, "first batch", c.Events).GetEvents(), wait(t, "second batch", c.Events).GetEvents()
	if len(first) != 500 || len(second) != 200 {
		t.Fatalf("batches of %d and %d", len(first), len(second))
	}
	if e := first[0]; e.GetMac() != "52:54:00:00:00:01" || e.GetKind() != "policy" || e.GetText() != "t" || e.GetTime().AsTime().Unix() != 1_800_000_000 {
		t.Errorf("event is %v", e)
	}
	book.mu.Lock()
	book.events = append(book.events, upstream.ClientEvent{Kind: "remoteapp"})
	book.mu.Unlock()
	book.notify <- struct{}{}
	if e := wait(t, "third batch", c.Events).GetEvents(); len(e) != 1 || e[0].GetKind() != "remoteapp" {
		t.Errorf("events are %v", e)
	}
}

func TestReportsOfPolicyAndLoginHost(t *testing.T) {
	c := fakecontroller.Start(t)
	since := time.Unix(1_800_000_000, 0)
	feed := &feed{notify: make(chan struct{}, 1), marked: make(chan struct{}, 10), pending: []upstream.ClientReport{{MAC: "a", State: "healthy", Policy: []byte{1}, PolicyWanted: []byte{2},
		PolicyPending: []string{"p"}, PolicyErrors: []string{"e"}, PolicyTook: time.Second, Sessions: []upstream.ClientSession{{Kind: "login", User: "anna", Since: since}}}}}
	feed.notify <- struct{}{}
	start(t, join(t, c), func(cfg *upstream.Config) {
		cfg.Clients = feed
		cfg.Status = func() upstream.Status {
			return upstream.Status{LoginHost: upstream.LoginHostStatus{PublicKey: "k", State: "host-key", Error: "e", Updated: since, Users: 3}}
		}
	})
	if l := wait(t, "report", c.Reports).GetLoginHost(); l.GetPublicKey() != "k" || l.GetState() != "host-key" || l.GetError() != "e" || l.GetUsers() != 3 || !l.GetUpdated().AsTime().Equal(since) {
		t.Errorf("login host is %v", l)
	}
	r := wait(t, "client", c.Clients).GetReports()[0]
	if r.GetPolicyState()[0] != 1 || r.GetPolicyWanted()[0] != 2 || r.GetPolicyPending()[0] != "p" || r.GetPolicyErrors()[0] != "e" || r.GetPolicyTook().AsDuration() != time.Second ||
		len(r.GetSessions()) != 1 || r.GetSessions()[0].GetUser() != "anna" {
		t.Errorf("report is %v", r)
	}
}
