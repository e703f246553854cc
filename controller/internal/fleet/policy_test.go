package fleet_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
)

func TestScope(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]fleet.Scope{"organisation": {}, "site/a": {Site: "a"}, "room/a/lab": {Site: "a", Room: "lab"}} {
		got, err := fleet.ParseScope(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "organisation/", "organisation/a", "site", "site/", "site/A", "site/a/b", "room/a", "room/a/", "room//b", "room/a/b/c", "room/a/B", "a"} {
		if _, err := fleet.ParseScope(text); !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseScope(f *testing.F) {
	f.Add("organisation")
	f.Add("room/a/lab")
	f.Fuzz(func(t *testing.T, text string) {
		if scope, err := fleet.ParseScope(text); err == nil && scope.String() != text {
			t.Errorf("%q reads as %q", text, scope)
		}
	})
}

func TestScopeCovers(t *testing.T) {
	t.Parallel()
	room := fleet.Scope{Site: "a", Room: "lab"}
	for _, c := range []struct {
		scope      fleet.Scope
		site, room string
		want       bool
	}{
		{fleet.Scope{}, "a", "", true}, {fleet.Scope{Site: "a"}, "a", "lab", true}, {fleet.Scope{Site: "a"}, "b", "lab", false},
		{room, "a", "lab", true}, {room, "a", "", false}, {room, "a", "x", false}, {room, "b", "lab", false},
	} {
		if got := c.scope.Covers(c.site, c.room); got != c.want {
			t.Errorf("%s covers %s/%s: %v", c.scope, c.site, c.room, got)
		}
	}
}

func TestRoomOf(t *testing.T) {
	t.Parallel()
	subnets := []fleet.Subnet{{CIDR: netip.MustParsePrefix("10.1.0.0/24"), Room: "lab"}, {CIDR: netip.MustParsePrefix("10.2.0.0/24")}, {}}
	for _, c := range []struct{ own, address, want string }{
		{"office", "10.1.0.7", "office"}, {"", "10.1.0.7", "lab"}, {"", "10.2.0.7", ""}, {"", "10.3.0.7", ""},
	} {
		if got := fleet.RoomOf(c.own, netip.MustParseAddr(c.address), subnets); got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
	if got := fleet.RoomOf("", netip.Addr{}, subnets); got != "" {
		t.Errorf("without an address: %q", got)
	}
}

func TestComposePolicies(t *testing.T) {
	t.Parallel()
	v := view()
	v.Policies = []fleet.PolicyVersion{
		{Scope: "room/a/b", Number: 4, SHA256: fleet.Hash{4}}, {Scope: "organisation", Number: 1, Author: "anna"}, {Scope: "room/a/a", Number: 3}, {Scope: "site/a", Number: 2, SizeBytes: 9},
	}
	v.Site.LoginHost.Address = "local"
	d := fleet.Compose(v)
	want := []fleet.PolicyLayer{
		{Scope: "organisation", Number: 1}, {Scope: "site/a", Number: 2, SizeBytes: 9}, {Scope: "room/a/a", Number: 3}, {Scope: "room/a/b", Number: 4, SHA256: fleet.Hash{4}},
	}
	if diff := cmp.Diff(want, d.Policies); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if d.LoginHost.Address != "local" {
		t.Errorf("login host %+v", d.LoginHost)
	}
}

const (
	ed25519Key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFvM4Dj5LKlrXJfDwVkTXJWlv9pDvnS9ZbfjBTq9YxzR"
	otherKey   = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAADj5LKlrXJfDwVkTXJWlv9pDvnS9ZbfjBTq9YxzR"
)

func TestLoginHostCheck(t *testing.T) {
	t.Parallel()
	many := make([]string, 17)
	for i := range many {
		many[i] = ed25519Key
	}
	tests := []struct {
		name string
		host fleet.LoginHost
		ok   bool
	}{
		{"none", fleet.LoginHost{}, true},
		{"local", fleet.LoginHost{Address: "local"}, true},
		{"address", fleet.LoginHost{Address: "192.0.2.1", Port: 2222, User: "ltsp-reader", HostKeys: []string{ed25519Key, otherKey}}, true},
		{"IPv6", fleet.LoginHost{Address: "2001:db8::1"}, true},
		{"name", fleet.LoginHost{Address: "srv-1.school.example"}, true},
		{"zone", fleet.LoginHost{Address: "fe80::1%eth0"}, false},
		{"multicast", fleet.LoginHost{Address: "224.0.0.1"}, false},
		{"no address", fleet.LoginHost{Address: "0.0.0.0"}, false},
		{"trailing dot", fleet.LoginHost{Address: "srv.example."}, false},
		{"trailing hyphen", fleet.LoginHost{Address: "srv-.example"}, false},
		{"shell", fleet.LoginHost{Address: "$(reboot)"}, false},
		{"option", fleet.LoginHost{Address: "-oProxyCommand=x"}, false},
		{"space", fleet.LoginHost{Address: "a b"}, false},
		{"long", fleet.LoginHost{Address: strings.Repeat("a.", 130) + "a"}, false},
		{"key without address", fleet.LoginHost{HostKeys: []string{ed25519Key}}, false},
		{"user without address", fleet.LoginHost{User: "x"}, false},
		{"port", fleet.LoginHost{Address: "a", Port: 65536}, false},
		{"user", fleet.LoginHost{Address: "a", User: "root; x"}, false},
		{"user option", fleet.LoginHost{Address: "a", User: "-x"}, false},
		{"twice", fleet.LoginHost{Address: "a", HostKeys: []string{ed25519Key, ed25519Key}}, false},
		{"many", fleet.LoginHost{Address: "a", HostKeys: many}, false},
		{"comment", fleet.LoginHost{Address: "a", HostKeys: []string{ed25519Key + " root@srv"}}, false},
		{"two lines", fleet.LoginHost{Address: "a", HostKeys: []string{ed25519Key + "\n"}}, false},
		{"no base64", fleet.LoginHost{Address: "a", HostKeys: []string{"ssh-ed25519 $$$"}}, false},
		{"empty key", fleet.LoginHost{Address: "a", HostKeys: []string{"ssh-ed25519 "}}, false},
		{"another type within", fleet.LoginHost{Address: "a", HostKeys: []string{strings.Replace(ed25519Key, "ssh-ed25519", "ssh-rsa", 1)}}, false},
		{"certificate authority", fleet.LoginHost{Address: "a", HostKeys: []string{"@cert-authority " + ed25519Key}}, false},
	}
	for _, test := range tests {
		site := fleet.Site{Name: "a", LoginHost: test.host}
		err := site.Check(newLibrary())
		if (err == nil) != test.ok || err != nil && !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func FuzzLoginHostCheck(f *testing.F) {
	f.Add("192.0.2.1", "ltsp", ed25519Key)
	f.Fuzz(func(t *testing.T, address, user, key string) {
		site := fleet.Site{Name: "a", LoginHost: fleet.LoginHost{Address: address, User: user, HostKeys: []string{key}}}
		if site.Check(newLibrary()) != nil {
			return
		}
		for _, s := range []string{address, user, key} {
			if strings.ContainsAny(s, "\n\r\x00'\"`$;&|<>\\") || strings.HasPrefix(s, "-") {
				t.Errorf("%q was accepted", s)
			}
		}
	})
}

func TestRooms(t *testing.T) {
	t.Parallel()
	client := fleet.Client{Site: "a", MAC: "52:54:00:00:00:01", Room: "Lab 1"}
	if err := client.Check(nil, nil, newLibrary()); !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("client: %v", err)
	}
	subnet := lan()
	subnet.Room = "../x"
	if err := subnet.Check(nil, nil, newLibrary()); !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("subnet: %v", err)
	}
}

func TestCommandCheck(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 5000)
	for _, test := range []struct {
		name    string
		command fleet.Command
		ok      bool
	}{
		{"reboot", fleet.Command{Kind: "reboot"}, true},
		{"reboot with arguments", fleet.Command{Kind: "reboot", Args: []string{"x"}}, false},
		{"message", fleet.Command{Kind: "message", Text: "Lunch!"}, true},
		{"empty message", fleet.Command{Kind: "message"}, false},
		{"message with a zero", fleet.Command{Kind: "message", Text: "a\x00"}, false},
		{"long message", fleet.Command{Kind: "message", Text: long}, false},
		{"logs", fleet.Command{Kind: "logs"}, true},
		{"logs of units", fleet.Command{Kind: "logs", Args: []string{"ssh.service"}}, true},
		{"run", fleet.Command{Kind: "run", Args: []string{"id"}}, true},
		{"run nothing", fleet.Command{Kind: "run"}, false},
		{"run long", fleet.Command{Kind: "run", Args: []string{long, long}}, false},
		{"run with a zero", fleet.Command{Kind: "run", Args: []string{"a\x00b"}}, false},
		{"run many", fleet.Command{Kind: "run", Args: make([]string, 65)}, false},
		{"wake", fleet.Command{Kind: "wake"}, true},
		{"short timeout", fleet.Command{Kind: "wake", Timeout: 1}, false},
		{"long timeout", fleet.Command{Kind: "wake", Timeout: 1 << 50}, false},
		{"unknown", fleet.Command{Kind: "explode"}, false},
	} {
		err := test.command.Check()
		if (err == nil) != test.ok || err != nil && !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s: %v", test.name, err)
		}
		if err == nil && test.command.Timeout == 0 {
			t.Errorf("%s: no timeout", test.name)
		}
	}
	site := fleet.Site{Name: "a"}
	if err := site.CheckCommand(fleet.CommandRun); !errors.Is(err, fleet.ErrDenied) {
		t.Errorf("run at a site that does not allow it: %v", err)
	}
	if err := site.CheckCommand(fleet.CommandReboot); err != nil {
		t.Errorf("reboot: %v", err)
	}
}

// What satellites tell is cut to size and cannot move the cursor of a terminal.
func TestBoundPolicyReports(t *testing.T) {
	t.Parallel()
	r := fleet.ClientReport{PolicyErrors: make([]string, 100), Sessions: make([]fleet.ClientSession, 100)}
	r.PolicyErrors[0], r.Sessions[0].User = "a\x1b[2J", strings.Repeat("u", 1000)
	r.Bound()
	if len(r.PolicyErrors) != 64 || len(r.Sessions) != 64 || r.PolicyErrors[0] != "a [2J" || len(r.Sessions[0].User) != 256 {
		t.Errorf("report %+v", r)
	}
	s := fleet.Status{LoginHost: &fleet.LoginHostStatus{State: strings.Repeat("s", 1000), PublicKey: strings.Repeat("k", 10_000)}}
	s.Bound()
	if len(s.LoginHost.State) != 256 || len(s.LoginHost.PublicKey) != 2048 {
		t.Errorf("status %+v", s.LoginHost)
	}
	result := fleet.CommandResult{Output: strings.Repeat("a", 1<<20) + "end", Error: "x\x07"}
	result.Bound()
	if len(result.Output) != 32<<10 || !strings.HasSuffix(result.Output, "end") || result.Error != "x " {
		t.Errorf("result with %d bytes, error %q", len(result.Output), result.Error)
	}
	event := fleet.ClientEvent{Text: strings.Repeat("t", 1000)}
	event.Bound()
	if len(event.Text) != 512 {
		t.Errorf("event with %d bytes", len(event.Text))
	}
}
