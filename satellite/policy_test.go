package satellite

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/health"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore/versiontest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream/fakecontroller"
)

const testPC = "52:54:00:00:00:01"

// token boots a PC as far as its boot configuration and returns the token in it.
func (b *box) token() string {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if code, _ := b.get("/boot.ipxe?mac=" + testPC); code != 200 {
			continue
		}
		if code, body := b.get("/boot/client.cpio?mac=" + testPC); code == 200 {
			_, rest, ok := strings.Cut(body, `"token":"`)
			if !ok || len(rest) < 32 {
				b.t.Fatalf("no token in %q", body)
			}
			return rest[:32]
		}
	}
	b.t.Fatal("no boot configuration")
	return ""
}

// agentStream is a client's end of a stream to a satellite.
type agentStream struct {
	*agentproto.Reader
	*agentproto.Writer
	t *testing.T
}

func (b *box) dial(token string, fetch bool) *agentStream {
	b.t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", b.local.ReportPort)
	raw, err := net.Dial("tcp", addr)
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); {
		raw, err = net.Dial("tcp", addr) // the port is not open yet
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { raw.Close() })
	if err := raw.SetDeadline(time.Now().Add(patience)); err != nil {
		b.t.Fatal(err)
	}
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) // who the satellite is, is not the question here
	a := &agentStream{agentproto.NewReader(conn), agentproto.NewWriter(conn), b.t}
	if ack := a.say(agentproto.Message{Hello: &agentproto.Hello{Version: 1, MAC: testPC, Token: token, Fetch: fetch}}).Ack; ack == nil || ack.Error != "" {
		b.t.Fatalf("answer to hello: %+v", ack)
	}
	return a
}

func (a *agentStream) read() agentproto.Message {
	a.t.Helper()
	m, err := a.Read()
	if err != nil {
		a.t.Fatal(err)
	}
	return m
}

func (a *agentStream) say(m agentproto.Message) agentproto.Message {
	a.t.Helper()
	if err := a.Write(m); err != nil {
		a.t.Fatal(err)
	}
	return a.read()
}

func (a *agentStream) fetch(name string) []byte {
	a.t.Helper()
	m := a.say(agentproto.Message{Fetch: &agentproto.Fetch{Name: name}})
	if m.Blob == nil {
		a.t.Fatalf("fetch of %s: %+v", name, m.Ack)
	}
	var buf bytes.Buffer
	if err := a.ReadBlob(*m.Blob, &buf); err != nil {
		a.t.Fatal(err)
	}
	return buf.Bytes()
}

// layers fetches the client's policy with all archives.
func (b *box) layers(token string) (scopes []string, state *agentproto.PolicyState) {
	b.t.Helper()
	a := b.dial(token, true)
	state, err := agentproto.ParsePolicyState(a.fetch(agentproto.PolicyName))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, l := range state.Layers {
		tree, err := policy.Decode(a.fetch(l.SHA256))
		if err != nil {
			b.t.Fatal(err)
		}
		scopes = append(scopes, fmt.Sprintf("%s@%d %s", l.Scope, l.Number, tree.Conf()))
	}
	return scopes, state
}

// await takes the next value.
func await[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func archive(t *testing.T, conf string) []byte {
	t.Helper()
	data, err := policy.Tree{{Path: "ltsp.conf", Kind: policy.Regular, Mode: 0o600, Content: []byte(conf)}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPolicyAndCommandsReachTheClient(t *testing.T) {
	c := fakecontroller.Start(t)
	v := versiontest.Image(t, c.Key, "lab", 1, 1, versiontest.Data(1, 700_000), 50_000)
	org, room := c.Policy("organisation", 1, archive(t, "A=1")), c.Policy("room/hill/r1", 1, archive(t, "A=2"))
	c.Want(func(d *satellitev1.DesiredState) {
		loopback(d)
		d.Subnets[0].Room = "r1"
		d.Policies = []*satellitev1.PolicyLayer{org, room}
		d.Commands = []string{"reboot"}
	}, v)
	b := joined(t, c)
	b.start()
	b.until("the version", verified(1))
	b.until("the policy", func(s health.Status) bool { return s.Policy.Levels == 2 && s.Policy.Missing == 0 })
	token := b.token()
	scopes, state := b.layers(token)
	if got := strings.Join(scopes, ", "); got != "organisation@1 A=1, room/hill/r1@1 A=2" || len(state.Commands) != 1 {
		t.Errorf("policy %s, %+v", got, state)
	}
	a := b.dial(token, false)

	// A new policy is told at once, and a client that shall have another room's gets that.
	org = c.Policy("organisation", 2, archive(t, "A=3"))
	c.Want(func(d *satellitev1.DesiredState) {
		d.Policies = []*satellitev1.PolicyLayer{org, room}
		d.Clients = []*satellitev1.Client{{Mac: testPC, Room: "r2"}}
	}, v)
	m := a.read()
	if m.Notice == nil {
		t.Fatalf("got %+v, want a notice", m)
	}
	scopes, state = b.layers(token)
	if _, digest, err := state.Encode(); err != nil || strings.Join(scopes, ", ") != "organisation@2 A=3" || digest != m.Notice.Policy {
		t.Errorf("policy %v, digest %s, told %s", scopes, digest, m.Notice.Policy)
	}

	// A command goes down, its result and an event go up.
	id := strings.Repeat("1f", 16)
	c.Command(&satellitev1.ClientCommand{Id: id, Mac: testPC, Kind: "reboot"})
	if m := a.read(); m.Command == nil || m.Command.ID != id || m.Command.Kind != agentproto.CommandReboot {
		t.Fatalf("got %+v, want the command", m)
	}
	a.say(agentproto.Message{Result: &agentproto.Result{ID: id, Output: "soon"}})
	if r := await(t, c.Results); r.GetId() != id || r.GetOutput() != "soon" || r.GetError() != "" {
		t.Errorf("result %v", r)
	}
	c.Command(&satellitev1.ClientCommand{Id: id, Mac: testPC, Kind: "run", Args: []string{"id"}})
	if r := await(t, c.Results); !strings.Contains(r.GetError(), "does not allow") {
		t.Errorf("result of a command that is not allowed: %v", r)
	}
	c.Command(&satellitev1.ClientCommand{Id: id, Mac: "52:54:00:00:00:99", Kind: "reboot"})
	if r := await(t, c.Results); !r.GetNotHere() {
		t.Errorf("result of a command for a client elsewhere: %v", r)
	}
	a.say(agentproto.Message{Event: &agentproto.Event{Kind: agentproto.EventRemoteApp, Text: "app1 does not answer"}})
	if e := await(t, c.Events).GetEvents(); len(e) != 1 || e[0].GetMac() != testPC || e[0].GetText() != "app1 does not answer" {
		t.Errorf("events %v", e)
	}
	a.say(agentproto.Message{Report: &agentproto.Report{State: "healthy", Policy: &agentproto.PolicyReport{State: m.Notice.Policy}}})
	for {
		if r := await(t, c.Clients).GetReports()[0]; len(r.GetPolicyState()) > 0 {
			if !bytes.Equal(r.GetPolicyState(), r.GetPolicyWanted()) {
				t.Errorf("report has policy %x, wanted %x", r.GetPolicyState(), r.GetPolicyWanted())
			}
			break
		}
	}

	// The same from the disk, while the controller is away.
	b.stop()
	c.Stop()
	b.start()
	b.until("the version from the disk", verified(1))
	b.token() // the port is open
	if scopes, _ := b.layers(token); strings.Join(scopes, ", ") != "organisation@2 A=3" {
		t.Errorf("policy after a restart: %v", scopes)
	}
	b.until("a word about the controller", func(s health.Status) bool { return !s.Connected })
}

// TestLocalLoginHost makes the satellite's own machine the login host: a connected client is told of its users.
func TestLocalLoginHost(t *testing.T) {
	c := fakecontroller.Start(t)
	v := versiontest.Image(t, c.Key, "lab", 1, 1, versiontest.Data(1, 700_000), 50_000)
	c.Want(loopback, v)
	b := joined(t, c)
	b.start()
	b.until("the version", verified(1))
	token := b.token()
	a := b.dial(token, false)
	c.Want(func(d *satellitev1.DesiredState) { d.LoginHost = &satellitev1.LoginHost{Address: "local"} }, v)
	var state *agentproto.PolicyState
	for state == nil || state.Users == nil { // the login host comes first, its users when they have been read
		if m := a.read(); m.Notice == nil {
			t.Fatalf("got %+v, want a notice", m)
		}
		_, state = b.layers(token)
	}
	f := b.dial(token, true)
	f.fetch(agentproto.PolicyName)
	users, err := agentproto.ParseUsers(f.fetch(state.Users.SHA256))
	if err != nil || !strings.HasPrefix(users.Passwd, "root:x:0:0:") || state.Server != "127.0.0.1" {
		t.Errorf("server %q, %d bytes of users, %v", state.Server, len(users.Passwd), err)
	}
	s := b.until("the login host's state", func(s health.Status) bool { return s.LoginHost.State == "ok" })
	if s.LoginHost.Address != "local" || !strings.HasPrefix(s.LoginHost.PublicKey, "ssh-ed25519 ") || !strings.HasSuffix(s.LoginHost.PublicKey, "ltsp-satellite@hill/sat1") {
		t.Errorf("login host %+v", s.LoginHost)
	}
	for {
		if l := await(t, c.Reports).GetLoginHost(); l.GetState() == "ok" {
			if l.GetPublicKey() != s.LoginHost.PublicKey || l.GetUpdated() == nil {
				t.Errorf("reported %v", l)
			}
			break
		}
	}
}

// TestConfDecidesTheBoot: ltsp.conf of the policy gives kernel parameters and a menu, and an error in it is told.
func TestConfDecidesTheBoot(t *testing.T) {
	c := fakecontroller.Start(t)
	v := versiontest.Image(t, c.Key, "lab", 1, 1, versiontest.Data(1, 700_000), 50_000)
	apply := func(number uint64, conf string) {
		t.Helper()
		l := c.Policy("site/hill", number, archive(t, conf))
		c.Want(func(d *satellitev1.DesiredState) {
			loopback(d)
			d.Policies = []*satellitev1.PolicyLayer{l}
		}, v)
	}
	apply(1, "[server]\nKERNEL_PARAMETERS=\"quiet from=server\"\nMENU_TIMEOUT=3000\n["+testPC+"]\nKERNEL_PARAMETERS=from=own\n")
	b := joined(t, c)
	b.start()
	script := func(mac string, want ...string) {
		t.Helper()
		b.until("a script with "+strings.Join(want, ", "), func(health.Status) bool {
			_, text := b.get("/boot.ipxe?mac=" + mac)
			for _, w := range want {
				if !strings.Contains(text, w) {
					return false
				}
			}
			return true
		})
	}
	script(testPC, " from=own ", "set menu-timeout 3000", "choose ")
	script("52:54:00:00:00:99", " quiet from=server ", "choose ")
	apply(2, "[server]\nKERNEL_PARAMETERS=x\nif\n")
	b.until("a word about the error", func(s health.Status) bool {
		return strings.Contains(strings.Join(s.Problems, "\n"), "ltsp.conf is not followed for boots: site/hill/ltsp.conf")
	})
	if _, text := b.get("/boot.ipxe?mac=" + testPC); strings.Contains(text, "choose") || !strings.Contains(text, v.ID.String()) {
		t.Errorf("script with an error in ltsp.conf:\n%s", text)
	}
	apply(3, "[server]\nKERNEL_PARAMETERS=mended\n")
	script(testPC, " mended ")
	b.until("the end of the problem", func(s health.Status) bool { return !strings.Contains(strings.Join(s.Problems, "\n"), "ltsp.conf") })
}
