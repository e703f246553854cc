package upstream_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/types/known/durationpb"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore/versiontest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/state/identity"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream/fakecontroller"
)

// patience bounds every wait of these tests; it is reached only when something is broken.
const patience = 30 * time.Second

func join(t *testing.T, c *fakecontroller.Controller) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := (upstream.Join{Controller: c.Addr, Token: c.Token("hill"), Name: "sat1", DataDir: dir}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestJoin(t *testing.T) {
	c := fakecontroller.Start(t)
	dir := join(t, c)
	info, err := os.Stat(filepath.Join(dir, identity.FileName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("identity file: %v, %v", info, err)
	}
	id, err := identity.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if id.Site() != "hill" || id.Name() != "sat1" || id.Controller() != c.Addr || !id.CA().Equal(c.CA()) || len(id.SigningKeys()) != 1 {
		t.Errorf("identity is %s/%s at %s", id.Site(), id.Name(), id.Controller())
	}
	before, _ := os.ReadFile(filepath.Join(dir, identity.FileName))
	again := upstream.Join{Controller: c.Addr, Token: c.Token("hill"), Name: "sat2", DataDir: dir}
	if _, err := again.Run(t.Context()); !errors.Is(err, identity.ErrJoined) {
		t.Errorf("second join: %v", err)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, identity.FileName)); !bytes.Equal(before, after) {
		t.Error("the refused join changed the identity")
	}
	again.Force = true
	if _, err := again.Run(t.Context()); err != nil {
		t.Errorf("forced join: %v", err)
	}
	if id, err := identity.Load(dir); err != nil || id.Name() != "sat2" {
		t.Errorf("identity after a forced join: %v", err)
	}
}

func TestJoinRefuses(t *testing.T) {
	c := fakecontroller.Start(t)
	good := c.Token("hill")
	otherCA := good[:strings.LastIndex(good, "-")+1] + strings.Repeat("ab", 32)
	tests := []struct {
		name, controller, token, satellite string
		want                               error
		text                               string
	}{
		{"no token", c.Addr, "hello", "sat1", upstream.ErrToken, ""},
		{"short fingerprint", c.Addr, good[:len(good)-2], "sat1", upstream.ErrToken, ""},
		{"fingerprint of another CA", c.Addr, otherCA, "sat1", pki.ErrFingerprint, "nothing was sent"},
		{"unknown token", c.Addr, strings.Replace(good, "-t1-", "-t1-x", 1), "sat1", nil, "unknown, expired or used up"},
		{"bad name", c.Addr, good, "Sat 1", nil, "--name"},
		{"no port", "localhost", good, "sat1", nil, "HOST:PORT"},
		{"nobody there", "127.0.0.1:1", good, "sat1", nil, "refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := (upstream.Join{Controller: tt.controller, Token: tt.token, Name: tt.satellite, DataDir: dir}).Run(t.Context())
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v, want %v with %q", err, tt.want, tt.text)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 0 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
	if _, err := (upstream.Join{Controller: c.Addr, Token: good, Name: "sat1", DataDir: t.TempDir()}).Run(t.Context()); err != nil {
		t.Errorf("the token was used up by refused attempts: %v", err)
	}
}

// satellite is a Client under test with what it handed out.
type satellite struct {
	*upstream.Client
	id      *identity.Identity
	desired chan *config.Desired
	online  chan bool
	dir     string
}

func start(t *testing.T, dir string, change func(*upstream.Config)) *satellite {
	t.Helper()
	id, err := identity.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &satellite{id: id, dir: dir, desired: make(chan *config.Desired, 100), online: make(chan bool, 100)}
	cfg := upstream.Config{Identity: id, Build: "test", Desired: func(d *config.Desired) { s.desired <- d }, Connected: func(is bool) { s.online <- is },
		Revision: func() uint64 { return 5 }, Status: func() upstream.Status { return upstream.Status{Revision: 5, Problems: []string{"none"}} }}
	if change != nil {
		change(&cfg)
	}
	if s.Client, err = upstream.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func wait[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s within %s", what, patience)
		panic("unreachable")
	}
}

func TestStream(t *testing.T) {
	c := fakecontroller.Start(t)
	s := start(t, join(t, c), nil)
	if h := wait(t, "hello", c.Hellos); h.GetRevision() != 5 || h.GetBuild() != "test" {
		t.Errorf("hello is %v", h)
	}
	if !wait(t, "connection", s.online) {
		t.Fatal("offline")
	}
	wait(t, "first state", s.desired)
	if r := wait(t, "report", c.Reports); r.GetRevision() != 5 || r.GetTime() == nil || len(r.GetProblems()) != 1 {
		t.Errorf("report is %v", r)
	}
	v := versiontest.Image(t, c.Key, "lab", 3, 1, versiontest.Data(1, 10_000), 4096)
	c.Want(func(d *satellitev1.DesiredState) {
		d.GossipKey = bytes.Repeat([]byte{1}, 32)
		d.Subnets = []*satellitev1.Subnet{
			{Name: "lan", Cidr: "10.1.0.1/24", Mode: satellitev1.DhcpMode_DHCP_MODE_PROXY, RangeStart: "10.1.0.10", Dns: []string{"9.9.9.9"}, LeaseTime: durationpb.New(time.Hour)},
			{Name: "broken", Cidr: "10.1.0.300/24", Mode: satellitev1.DhcpMode_DHCP_MODE_OFF},
		}
		d.Clients = []*satellitev1.Client{{Mac: "52-54-00-AA-00-01", Name: "pc1", Address: "10.1.0.5"}, {Mac: "nonsense"}}
		d.Peers = []*satellitev1.Peer{{Name: "sat1", Addresses: []string{"10.1.0.2/24", "junk"}}}
		d.Boot = &satellitev1.BootPolicy{Boot: "lab:stable", Shell: true, DeadTimeout: durationpb.New(-time.Second)}
	}, v)
	want := &config.Desired{
		Revision: 2, Site: "hill", GossipKey: bytes.Repeat([]byte{1}, 32),
		Versions: []config.Version{{Image: "lab", Number: 3, ID: v.ID, Kind: manifest.Image, Channels: []string{"stable"}}},
		Subnets: []config.Subnet{{Name: "lan", CIDR: netip.MustParsePrefix("10.1.0.0/24"), Mode: config.Proxy, RangeStart: netip.MustParseAddr("10.1.0.10"),
			DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")}, LeaseTime: time.Hour}},
		Clients: []config.Client{{MAC: "52:54:00:aa:00:01", Name: "pc1", Address: netip.MustParseAddr("10.1.0.5")}},
		Peers:   []config.Peer{{Name: "sat1", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/24")}}},
		Boot:    config.Policy{Boot: "lab:stable", Shell: true},
	}
	if diff := cmp.Diff(want, wait(t, "state", s.desired), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("desired state (-want +got):\n%s", diff)
	}
	s.StatusChanged()
	wait(t, "report after a change", c.Reports)
}

func TestReconnectsAfterTheControllerWasAway(t *testing.T) {
	c := fakecontroller.Start(t)
	s := start(t, join(t, c), nil)
	wait(t, "connection", s.online)
	c.Stop()
	if wait(t, "loss", s.online) {
		t.Fatal("online without a controller")
	}
	if _, err := s.Manifest(t.Context(), manifest.ID{1}); !errors.Is(err, upstream.ErrOffline) {
		t.Errorf("manifest while offline: %v", err)
	}
	if err := s.Fetch(t.Context(), manifest.ID{1}, nil, nil); !errors.Is(err, upstream.ErrOffline) {
		t.Errorf("chunks while offline: %v", err)
	}
	c.Restart(t)
	if !wait(t, "connection", s.online) {
		t.Fatal("still offline")
	}
}

func TestFetchAndManifest(t *testing.T) {
	c := fakecontroller.Start(t)
	v := versiontest.Image(t, c.Key, "lab", 3, 1, versiontest.Data(1, 300_000), 4096)
	c.Want(nil, v)
	s := start(t, join(t, c), func(cfg *upstream.Config) { cfg.StallTimeout = 200 * time.Millisecond })
	wait(t, "connection", s.online)
	signed, err := s.Manifest(t.Context(), v.ID, "*")
	if err != nil || !bytes.Equal(signed, v.Signed) {
		t.Fatalf("manifest of %d bytes, %v", len(signed), err)
	}
	if _, err := s.Manifest(t.Context(), manifest.ID{9}); !errors.Is(err, upstream.ErrNotAssigned) {
		t.Errorf("unknown manifest: %v", err)
	}
	if short, err := s.Manifest(t.Context(), v.ID); err != nil || len(short) >= len(signed)-36*len(v.Manifest.Artifacts[0].Chunks) {
		t.Errorf("manifest without lists has %d of %d bytes, %v", len(short), len(signed), err)
	}
	refs := v.Manifest.Artifacts[0].Chunks
	n := 0
	err = s.Fetch(t.Context(), v.ID, refs, func(id chunk.ID, data []byte) error {
		if id != refs[n].ID || !bytes.Equal(data, v.Chunks[id]) {
			t.Errorf("chunk %d differs", n)
		}
		n++
		return nil
	})
	if err != nil || n != len(refs) {
		t.Errorf("%d of %d chunks, %v", n, len(refs), err)
	}
	stop := errors.New("stop")
	if err := s.Fetch(t.Context(), v.ID, refs, func(chunk.ID, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error of deliver came back as %v", err)
	}
	c.Do(func(c *fakecontroller.Controller) { c.Hang = true })
	if err := s.Fetch(t.Context(), v.ID, refs, nil); err == nil || !strings.Contains(err.Error(), "nothing arrived") {
		t.Errorf("silent controller: %v", err)
	}
}

func TestCertificateIsRenewedAndPromoted(t *testing.T) {
	c := fakecontroller.Start(t)
	// Two thirds of its life are over when it is issued.
	c.Do(func(c *fakecontroller.Controller) { c.CertBegins, c.CertLife = 50*time.Minute, time.Hour })
	dir := join(t, c)
	c.Do(func(c *fakecontroller.Controller) { c.CertBegins, c.CertLife = 0, 0 })
	before := serial(t, dir)
	s := start(t, dir, nil)
	wait(t, "connection", s.online)
	if after := serial(t, dir); after == before {
		t.Error("the certificate is still the old one")
	}
	if s.id.Pending() {
		t.Error("the renewed certificate was used but the old one is still kept")
	}
}

func TestExpiredCertificateIsRenewedFirst(t *testing.T) {
	c := fakecontroller.Start(t)
	c.Do(func(c *fakecontroller.Controller) { c.CertBegins, c.CertLife = 2*time.Hour, time.Hour })
	dir := join(t, c)
	c.Do(func(c *fakecontroller.Controller) { c.CertBegins, c.CertLife = 0, 0 })
	s := start(t, dir, nil)
	if !wait(t, "connection", s.online) {
		t.Error("offline")
	}
}

func TestRefusedRenewedCertificateGivesWayToTheOldOne(t *testing.T) {
	tests := []struct {
		name   string
		issuer func(own *fakecontroller.Controller) *fakecontroller.Controller
	}{
		{"unknown to the controller", func(own *fakecontroller.Controller) *fakecontroller.Controller { return own }},
		{"of another CA", func(*fakecontroller.Controller) *fakecontroller.Controller { return fakecontroller.Start(t) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := fakecontroller.Start(t)
			dir := join(t, c)
			old := serial(t, dir)
			nextDir := join(t, tt.issuer(c))
			id, err := identity.Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			next := credentials(t, nextDir)
			next.CA = credentials(t, dir).CA
			if err := id.SetNext(next, nil); err != nil {
				t.Fatal(err)
			}
			refused := serial(t, nextDir)
			c.Do(func(c *fakecontroller.Controller) { c.RefuseCerts = map[string]bool{refused: true} })
			s := start(t, dir, nil)
			if !wait(t, "connection", s.online) {
				t.Fatal("offline")
			}
			if now := serial(t, dir); now != old {
				t.Errorf("certificate %s in use, want the old one %s", now, old)
			}
		})
	}
}

func credentials(t *testing.T, dir string) identity.Credentials {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, identity.FileName))
	if err != nil {
		t.Fatal(err)
	}
	var r identity.Record
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	return r.Current
}

func TestWrongClockIsToldAndEnds(t *testing.T) {
	c := fakecontroller.Start(t)
	dir := join(t, c)
	// Seen from here, the controller's certificate ended long ago: one of the two clocks is wrong.
	if err := c.SetOwn(3*time.Hour, time.Hour); err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 100)
	s := start(t, dir, func(cfg *upstream.Config) {
		cfg.Problem = func(key, text string) {
			if key == "clock" {
				told <- text
			}
		}
	})
	if text := wait(t, "problem", told); !strings.Contains(text, "clock of this satellite") {
		t.Errorf("problem %q", text)
	}
	if len(c.Hellos) != 0 {
		t.Error("the satellite spoke to a controller that it could not verify")
	}
	if err := c.SetOwn(time.Minute, time.Hour); err != nil {
		t.Fatal(err)
	}
	if !wait(t, "connection", s.online) {
		t.Fatal("offline")
	}
	for text := range told {
		if text == "" {
			break
		}
	}
}

func TestRefusedSatelliteKeepsAskingAndSaysWhy(t *testing.T) {
	c := fakecontroller.Start(t)
	dir := join(t, c)
	c.Do(func(c *fakecontroller.Controller) { c.NoKnown = true })
	told := make(chan string, 100)
	s := start(t, dir, func(cfg *upstream.Config) {
		cfg.Problem = func(key, text string) {
			if key == "upstream" {
				told <- text
			}
		}
	})
	if text := wait(t, "problem", told); !strings.Contains(text, "the certificate is not accepted") || strings.Contains(text, "rpc error") {
		t.Errorf("problem %q", text)
	}
	c.Do(func(c *fakecontroller.Controller) { c.NoKnown = false })
	if !wait(t, "connection", s.online) {
		t.Fatal("offline")
	}
}

func TestClientReports(t *testing.T) {
	c := fakecontroller.Start(t)
	feed := &feed{notify: make(chan struct{}, 1), marked: make(chan struct{}, 10)}
	for i := range 700 {
		feed.pending = append(feed.pending, upstream.ClientReport{MAC: fmt.Sprint(i), State: "healthy", Uptime: time.Minute, Digest: []byte{1},
			Timeline: []upstream.BootStep{{Name: "kernel", At: time.Second, Source: "client"}}})
	}
	feed.notify <- struct{}{}
	start(t, join(t, c), func(cfg *upstream.Config) { cfg.Clients = feed })
	wait(t, "request for all clients", feed.marked)
	first, second := wait(t, "first batch", c.Clients), wait(t, "second batch", c.Clients)
	if len(first.GetReports()) != 500 || len(second.GetReports()) != 200 {
		t.Errorf("batches of %d and %d, want 500 and 200", len(first.GetReports()), len(second.GetReports()))
	}
	if r := first.GetReports()[0]; r.GetMac() != "0" || r.GetUptime().AsDuration() != time.Minute || len(r.GetTimeline()) != 1 || len(r.GetDigest()) != 1 {
		t.Errorf("report is %v", r)
	}
}

// feed is a ClientSource with one load of reports.
type feed struct {
	notify, marked chan struct{}
	pending        []upstream.ClientReport
}

func (f *feed) Notify() <-chan struct{} { return f.notify }
func (f *feed) MarkAll()                { f.marked <- struct{}{} }
func (f *feed) Pending() []upstream.ClientReport {
	out := f.pending
	f.pending = nil
	return out
}

func TestIdentityOnDisk(t *testing.T) {
	if _, err := identity.Load(t.TempDir()); !errors.Is(err, identity.ErrNotJoined) {
		t.Errorf("empty directory: %v", err)
	}
	c := fakecontroller.Start(t)
	dir := join(t, c)
	path := filepath.Join(dir, identity.FileName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{"truncated": text[:len(text)/2], "empty": nil, "huge": bytes.Repeat([]byte("x"), 2<<20),
		"future": bytes.Replace(text, []byte(`"version": 1`), []byte(`"version": 99`), 1)} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := identity.Load(dir); err == nil || errors.Is(err, identity.ErrNotJoined) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func serial(t *testing.T, dir string) string {
	t.Helper()
	id, err := identity.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id.Holder().Leaf().SerialNumber.String()
}
