package policies

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

const (
	pc1 = "52:54:00:00:00:01"
	pc2 = "52:54:00:00:00:02"
)

var (
	addr1 = netip.MustParseAddr("10.0.0.20")
	addr2 = netip.MustParseAddr("10.0.1.20")
	own   = netip.MustParseAddr("10.0.0.1")
)

// shop is a Source that can be told to fail.
type shop struct {
	mu       sync.Mutex
	archives map[policy.Digest][]byte
	calls    int
	err      error
	corrupt  bool
}

// layer puts an archive with an ltsp.conf on the shelf.
func (s *shop) layer(t testing.TB, scope string, number uint64, conf string) config.PolicyLayer {
	t.Helper()
	archive, err := policy.Tree{{Path: "ltsp-ipxe.conf", Kind: policy.Regular, Mode: 0o600, Content: []byte("# " + conf)},
		{Path: "ltsp.conf", Kind: policy.Regular, Mode: 0o644, Content: []byte(conf)}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return s.put(scope, number, archive)
}

func (s *shop) put(scope string, number uint64, archive []byte) config.PolicyLayer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.archives == nil {
		s.archives = make(map[policy.Digest][]byte)
	}
	l := config.PolicyLayer{Scope: scope, Number: number, SHA256: policy.Sum(archive), Size: int64(len(archive))}
	s.archives[l.SHA256] = archive
	return l
}

func (s *shop) tell(err error, corrupt bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.corrupt = err, corrupt
}

func (s *shop) fetched() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *shop) FetchPolicy(_ context.Context, l config.PolicyLayer, w io.Writer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.err != nil {
		return s.err
	}
	data := s.archives[l.SHA256]
	if s.corrupt {
		data = append([]byte("x"), data[1:]...)
	}
	_, err := w.Write(data)
	return err
}

type lab struct {
	*Keeper
	*shop
	dir string

	mu       sync.Mutex
	changes  int
	problems map[string]string
}

func (l *lab) told(key string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.problems[key]
}

// open must be called in a bubble.
func open(t *testing.T, dir string, s *shop) *lab {
	t.Helper()
	l := &lab{shop: s, dir: dir, problems: make(map[string]string)}
	var err error
	l.Keeper, err = Open(Config{Dir: dir, Source: s, Metrics: prometheus.NewRegistry(),
		Changed: func() { l.mu.Lock(); defer l.mu.Unlock(); l.changes++ },
		Problem: func(key, text string) { l.mu.Lock(); defer l.mu.Unlock(); l.problems[key] = text }})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// run runs the keeper until the test ends and what it starts with has settled.
func (l *lab) run(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = l.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
}

func (l *lab) scopes(t *testing.T, mac string, addr netip.Addr) string {
	t.Helper()
	s, err := l.State(mac, addr, own)
	if errors.Is(err, ErrUnknown) {
		return "unknown"
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := agentproto.ParsePolicyState(s.Text)
	if err != nil || agentproto.Digest(s.Text) != s.SHA256 {
		t.Fatalf("state %s: %v", s.Text, err)
	}
	var out []string
	for _, l := range p.Layers {
		out = append(out, fmt.Sprintf("%s@%d", l.Scope, l.Number))
	}
	return strings.Join(out, " ")
}

func desired(revision uint64, layers ...config.PolicyLayer) *config.Desired {
	return &config.Desired{Revision: revision, Site: "hill", Policies: layers,
		Subnets: []config.Subnet{{Name: "a", CIDR: netip.MustParsePrefix("10.0.0.0/24"), Room: "r1"}, {Name: "b", CIDR: netip.MustParsePrefix("10.0.1.0/24")}},
		Clients: []config.Client{{MAC: pc2, Room: "r2"}}}
}

func files(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if _, ok := parseDigest(e.Name()); ok {
			n++
		}
	}
	return n
}

func TestLevelsByClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(shop)
		l := open(t, t.TempDir(), s)
		l.run(t)
		if got := l.scopes(t, pc1, addr1); got != "unknown" {
			t.Errorf("before the first policy: %s", got)
		}
		l.Want(desired(1, s.layer(t, "organisation", 4, "A=1"), s.layer(t, "site/hill", 2, "A=2"), s.layer(t, "room/hill/r1", 1, "A=3"), s.layer(t, "room/hill/r2", 7, "A=4"),
			s.layer(t, "room/mill/r1", 9, "A=5")))
		synctest.Wait()
		for _, tt := range []struct {
			mac  string
			addr netip.Addr
			want string
		}{
			{pc1, addr1, "organisation@4 site/hill@2 room/hill/r1@1"},
			{pc1, addr2, "organisation@4 site/hill@2"},
			{pc1, netip.Addr{}, "organisation@4 site/hill@2"},
			{pc2, addr1, "organisation@4 site/hill@2 room/hill/r2@7"},
			{pc2, netip.Addr{}, "organisation@4 site/hill@2 room/hill/r2@7"},
		} {
			if got := l.scopes(t, tt.mac, tt.addr); got != tt.want {
				t.Errorf("%s at %s: %s, want %s", tt.mac, tt.addr, got, tt.want)
			}
		}
		if l.changes != 1 {
			t.Errorf("%d changes told, want 1", l.changes)
		}
		want := []Conf{{"organisation", "ltsp.conf", []byte("A=1")}, {"organisation", "ltsp-ipxe.conf", []byte("# A=1")},
			{"site/hill", "ltsp.conf", []byte("A=2")}, {"site/hill", "ltsp-ipxe.conf", []byte("# A=2")}}
		if diff := cmp.Diff(want, l.Confs(l.Room(pc1, addr2), "ipxe")); diff != "" {
			t.Errorf("configurations (-want +got):\n%s", diff)
		}
		if st := l.Status(); st != (Status{Revision: 1, Levels: 5}) {
			t.Errorf("status %+v", st)
		}
	})
}

func TestWholeOrNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(shop)
		dir := t.TempDir()
		l := open(t, dir, s)
		l.run(t)
		org := s.layer(t, "organisation", 1, "A=1")
		l.Want(desired(1, org))
		synctest.Wait()
		before, err := l.State(pc2, addr1, own)
		if err != nil {
			t.Fatal(err)
		}
		s.tell(errors.New("the controller is not connected"), false)
		two, room := s.layer(t, "organisation", 2, "A=2"), s.layer(t, "room/hill/r2", 1, "A=3")
		d := desired(2, two, room)
		d.Clients[0].Room = "r3"
		l.Want(d)
		synctest.Wait()
		if got, err := l.State(pc2, addr1, own); err != nil || got.SHA256 != before.SHA256 {
			t.Errorf("state changed before the policy was complete: %v", err)
		}
		if !strings.Contains(l.told("policy"), "clients keep the one before") {
			t.Errorf("told: %q", l.told("policy"))
		}
		// Back-off: a minute brings some attempts, no storm.
		time.Sleep(time.Minute)
		if n := s.fetched(); n < 4 || n > 12 {
			t.Errorf("%d attempts in a minute", n)
		}
		// A restart in between, with the controller away: the complete set is still in force.
		again := open(t, dir, s)
		if got := again.scopes(t, pc2, addr1); got != "organisation@1" {
			t.Errorf("after a restart: %s", got)
		}
		again.Want(d)
		if got := again.scopes(t, pc2, addr1); got != "organisation@1" {
			t.Errorf("after a restart, with the new state: %s", got)
		}
		s.tell(nil, false)
		l.Kick()
		synctest.Wait()
		if got := l.scopes(t, pc2, addr1); got != "organisation@2" {
			t.Errorf("when all is here: %s", got)
		}
		if n := files(t, dir); n != 2 || l.told("policy") != "" {
			t.Errorf("%d archives are kept, told %q", n, l.told("policy"))
		}
		// Back to the first: it is fetched again, what is not named any more goes.
		l.Want(desired(3, org))
		synctest.Wait()
		if got := l.scopes(t, pc2, addr1); got != "organisation@1" || files(t, dir) != 1 {
			t.Errorf("back: %s, %d archives", got, files(t, dir))
		}
	})
}

func TestUnusablePolicyChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(shop)
		l := open(t, t.TempDir(), s)
		l.run(t)
		l.Want(desired(1, s.layer(t, "organisation", 1, "A=1")))
		synctest.Wait()
		d := desired(2)
		d.PoliciesUnusable = "the archive is named by 3 bytes"
		l.Want(d)
		if got := l.scopes(t, pc1, addr1); got != "organisation@1" {
			t.Errorf("after an unusable policy: %s", got)
		}
		for name, bad := range map[string]config.PolicyLayer{"no archive": s.put("organisation", 3, []byte("hello")), "damaged on the way": s.layer(t, "organisation", 4, "A=4")} {
			s.tell(nil, name == "damaged on the way")
			l.Want(desired(bad.Number, bad))
			synctest.Wait()
			if got := l.scopes(t, pc1, addr1); got != "organisation@1" || l.told("policy") == "" {
				t.Errorf("%s: %s, told %q", name, got, l.told("policy"))
			}
		}
		if n := files(t, l.dir); n != 1 {
			t.Errorf("%d archives on the disk", n)
		}
		// No policy at all is one too.
		l.Want(desired(9))
		if got := l.scopes(t, pc1, addr1); got != "" || files(t, l.dir) != 0 {
			t.Errorf("without a policy: %q, %d archives", got, files(t, l.dir))
		}
	})
}

func TestDamagedDiskIsMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(shop)
		dir := t.TempDir()
		l := open(t, dir, s)
		l.run(t)
		org, site := s.layer(t, "organisation", 1, "A=1"), s.layer(t, "room/hill/r2", 1, "A=2")
		d := desired(1, org, site)
		l.Want(d)
		synctest.Wait()
		path := filepath.Join(dir, fmt.Sprintf("%x", site.SHA256))
		if err := os.WriteFile(path, []byte("LTSPpol"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, ".tmp-x"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		again := open(t, dir, s)
		if got := again.scopes(t, pc1, addr2); got != "organisation@1" {
			t.Errorf("client whose levels are whole: %s", got)
		}
		if got := again.scopes(t, pc2, addr1); got != "unknown" {
			t.Errorf("client with a damaged level: %s", got)
		}
		if _, err := os.Stat(filepath.Join(dir, ".tmp-x")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the left-over is still there: %v", err)
		}
		again.run(t)
		again.Want(d)
		synctest.Wait()
		if got := again.scopes(t, pc2, addr1); got != "organisation@1 room/hill/r2@1" {
			t.Errorf("after the repair: %s", got)
		}
		// Another site's policy is never used.
		other := open(t, dir, s)
		foreign := desired(5)
		foreign.Site = "mill"
		foreign.PoliciesUnusable = "x"
		other.Want(foreign)
		if got := other.scopes(t, pc1, addr1); got != "unknown" {
			t.Errorf("at another site: %s", got)
		}
		// A file that says nonsense is as none.
		if err := os.WriteFile(filepath.Join(dir, inForceName), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := open(t, dir, s).scopes(t, pc1, addr1); got != "unknown" {
			t.Errorf("with a damaged note: %s", got)
		}
	})
}

func TestLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(shop)
		l := open(t, t.TempDir(), s)
		parse := func(local netip.Addr) *agentproto.PolicyState {
			t.Helper()
			st, err := l.State(pc1, addr1, local)
			if err != nil {
				t.Fatal(err)
			}
			p, err := agentproto.ParsePolicyState(st.Text)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		d := desired(1)
		d.Commands = []string{"run", "logs", "run"}
		d.Login = config.LoginHost{Address: "10.0.0.5", Port: 22, User: "ltsp", HostKeys: []string{"ssh-ed25519 AAAA"}}
		l.Want(d)
		want := &agentproto.PolicyState{Version: 1, Server: "10.0.0.5", KnownHosts: []string{"server,10.0.0.5 ssh-ed25519 AAAA"}, Commands: []string{"logs", "run"}}
		if diff := cmp.Diff(want, parse(own)); diff != "" {
			t.Errorf("before the accounts are known (-want +got):\n%s", diff)
		}
		users := []byte(`{"passwd":"anna:x:1:1::/:/bin/sh\n","group":""}`)
		l.SetAccounts("10.0.0.9", Accounts{Users: []byte("{}")}) // a former login host's
		l.SetAccounts("10.0.0.5", Accounts{Users: users})
		l.SetAccounts("10.0.0.5", Accounts{Users: users})
		if l.changes != 2 {
			t.Errorf("%d changes told, want 2", l.changes)
		}
		if got := parse(own).Users; got == nil || *got != (agentproto.Blob{Size: uint64(len(users)), SHA256: agentproto.Digest(users)}) {
			t.Errorf("users %+v", got)
		}
		// On this machine: each client is told the address by which it reaches the satellite.
		d = desired(2)
		d.Login = config.LoginHost{Address: config.LocalLogin, Port: 2222, User: "ltsp"}
		l.Want(d)
		l.SetAccounts(config.LocalLogin, Accounts{Users: users, HostKeys: []string{"ssh-rsa BBBB"}})
		for _, local := range []string{"10.0.0.1", "10.0.1.1"} {
			p := parse(netip.MustParseAddr(local))
			if p.Server != local || p.ServerPort != 2222 || p.KnownHosts[0] != "[server]:2222,["+local+"]:2222 ssh-rsa BBBB" {
				t.Errorf("at %s: %+v", local, p)
			}
		}
		if _, err := l.State(pc1, addr1, netip.Addr{}); err == nil {
			t.Error("a local login host without an address")
		}
		l.Want(desired(3))
		if p := parse(own); p.Server != "" || p.Users != nil || p.KnownHosts != nil {
			t.Errorf("without a login host: %+v", p)
		}
	})
}

func TestOpenNamedBytesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(shop)
		l := open(t, t.TempDir(), s)
		l.run(t)
		org, room := s.layer(t, "organisation", 1, "A=1"), s.layer(t, "room/hill/r1", 1, "A=2")
		d := desired(1, org, room)
		d.Login = config.LoginHost{Address: "10.0.0.5", Port: 22, User: "ltsp"}
		l.Want(d)
		users := []byte(`{"passwd":"","group":""}`)
		l.SetAccounts("10.0.0.5", Accounts{Users: users})
		synctest.Wait()
		st, err := l.State(pc1, addr2, own)
		if err != nil {
			t.Fatal(err)
		}
		read := func(name string) ([]byte, error) {
			r, size, err := st.Open(name)
			if err != nil {
				return nil, err
			}
			defer r.Close()
			data, err := io.ReadAll(r)
			if int64(len(data)) != size {
				t.Errorf("%d bytes, announced were %d", len(data), size)
			}
			return data, err
		}
		for name, want := range map[string][]byte{fmt.Sprintf("%x", org.SHA256): s.archives[org.SHA256], agentproto.Digest(users): users} {
			if got, err := read(name); err != nil || !cmp.Equal(got, want) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
		for _, name := range []string{fmt.Sprintf("%x", room.SHA256), strings.Repeat("0", 64), inForceName, "../state.db", ""} {
			if _, err := read(name); !errors.Is(err, ErrGone) {
				t.Errorf("%q: %v", name, err)
			}
		}
		l.Want(desired(2))
		if _, err := read(fmt.Sprintf("%x", org.SHA256)); !errors.Is(err, ErrGone) {
			t.Errorf("archive that was replaced: %v", err)
		}
	})
}

func TestMetricsAreThoseOfTheDocumentation(t *testing.T) {
	reg := prometheus.NewRegistry()
	if _, err := Open(Config{Dir: t.TempDir(), Source: new(shop), Metrics: reg}); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(doc), "ltsp_satellite_"); n != len(families) {
		t.Errorf("%d metrics documented, %d registered", n, len(families))
	}
	for _, f := range families {
		if !strings.Contains(string(doc), f.GetName()) {
			t.Errorf("%s is not documented", f.GetName())
		}
	}
}
