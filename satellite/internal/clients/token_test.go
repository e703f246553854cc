package clients

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, nil)
	hello := func(r *Registry, mac, token string) error {
		return r.Hello(agentproto.Hello{Version: 1, MAC: mac, Token: token, Agent: "v1"}, addr)
	}
	token, err := r.IssueToken(pc)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := r.IssueToken("52:54:00:67:00:11")
	for _, tt := range []struct {
		name, mac, token string
		ok               bool
	}{
		{"right", pc, token, true},
		{"of another PC", pc, other, false},
		{"made up", pc, strings.Repeat("0", 32), false},
		{"empty", pc, "", false},
		{"unknown PC", "52:54:00:67:00:12", token, false},
	} {
		if err := hello(r, tt.mac, tt.token); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for range maxTokens - 1 {
		if _, err := r.IssueToken(pc); err != nil {
			t.Fatal(err)
		}
	}
	if err := hello(r, pc, token); err != nil {
		t.Errorf("the boot's own token after more fetches: %v", err)
	}
	if _, err := r.IssueToken(pc); err != nil {
		t.Fatal(err)
	}
	if err := hello(r, pc, token); !errors.Is(err, ErrToken) {
		t.Errorf("the oldest of more than %d tokens: %v, want ErrToken", maxTokens, err)
	}
}

func TestTokensOfAnotherSatellite(t *testing.T) {
	t.Parallel()
	a, b, c := newRegistry(t, nil), newRegistry(t, nil), newRegistry(t, nil)
	a.SetTokenKey([]byte("one site"))
	b.SetTokenKey([]byte("one site"))
	c.SetTokenKey([]byte("another site"))
	token, err := a.IssueToken(pc)
	if err != nil {
		t.Fatal(err)
	}
	hello := agentproto.Hello{Version: 1, MAC: pc, Token: token}
	if err := b.Hello(hello, addr); err != nil {
		t.Errorf("satellite of the same site: %v", err)
	}
	if err := c.Hello(hello, addr); !errors.Is(err, ErrToken) {
		t.Errorf("satellite of another site: %v, want ErrToken", err)
	}
	hello.MAC = "52:54:00:67:00:11"
	if err := b.Hello(hello, addr); !errors.Is(err, ErrToken) {
		t.Errorf("token of another PC: %v, want ErrToken", err)
	}
	failing := newRegistry(t, func(c *Config) { c.Random = bytes.NewReader(nil) })
	if token, err := failing.IssueToken(pc); err == nil {
		t.Errorf("token %q without randomness", token)
	}
}
