package login

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/account"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginhost"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	local, ldap := account.Account{UID: 1000, Local: true}, account.Account{UID: 5000}
	typed := account.Secret{Remote: true}
	free := account.Secret{Remote: true, Free: true}
	for name, c := range map[string]struct {
		authType string
		account  account.Account
		secret   account.Secret
		err      error
		want     step
	}{
		"the host's user":                       {loginconf.Primary, local, typed, nil, askHost},
		"no type is Primary":                    {loginconf.Auto, local, typed, nil, askHost},
		"a stored password":                     {loginconf.Primary, local, account.Secret{Remote: true, Password: []byte("x")}, nil, askHost},
		"a guest":                               {loginconf.Primary, local, free, nil, letIn},
		"a user of the client's own":            {loginconf.Primary, local, account.Secret{}, nil, refuse},
		"root":                                  {loginconf.Primary, account.Account{Local: true}, typed, nil, refuse},
		"root as guest":                         {loginconf.Primary, account.Account{Local: true}, free, nil, refuse},
		"no shadow":                             {loginconf.Primary, local, typed, errors.New("x"), refuse},
		"LDAP's user":                           {loginconf.Primary, ldap, typed, nil, refuse},
		"LDAP's user, LDAP asked":               {loginconf.Additional, ldap, typed, nil, mountOnly},
		"the host's user, LDAP asked":           {loginconf.Additional, local, typed, nil, mountOnly},
		"a guest, LDAP asked":                   {loginconf.Additional, local, free, nil, accept},
		"one of the client's own, LDAP asked":   {loginconf.Additional, local, account.Secret{}, nil, accept},
		"no shadow, LDAP asked":                 {loginconf.Additional, local, typed, errors.New("x"), accept},
		"PAM calls although nobody wants it to": {loginconf.Off, local, account.Secret{}, nil, refuse},
	} {
		if got := decide(c.authType, c.account, c.secret, c.err); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for outcome, want := range map[loginhost.Outcome]struct{ kind, text string }{
		loginhost.Accepted: {},
		loginhost.Refused:  {},
		loginhost.HostKey:  {agentproto.EventHostKey, "is not the one"},
		loginhost.Away:     {agentproto.EventLoginHost, "does not answer"},
		loginhost.Broken:   {agentproto.EventLoginHost, "could not check"},
	} {
		text, kind := words("server", loginhost.Answer{Outcome: outcome, Text: "a\nb" + strings.Repeat("x", 999)})
		if kind != want.kind || !strings.Contains(text, want.text) || (text == "") != (want.text == "") {
			t.Errorf("%v: %q, %q", outcome, kind, text)
		}
		if outcome == loginhost.Broken && (strings.Contains(text, "\n") || len(text) > 400) {
			t.Errorf("the user is told %q", text)
		}
	}
}

func TestTypedPassword(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"secret": "secret", "secret\x00": "secret", "two words ü": "two words ü", "": "", "\x00": "", strings.Repeat("x", 513): ""} {
		h := &handler{stdin: strings.NewReader(in)}
		got, err := h.password(account.Secret{})
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	h := &handler{stdin: strings.NewReader("typed")}
	if got, err := h.password(account.Secret{Password: []byte("stored")}); err != nil || string(got) != "stored" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestUnlockEntry(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "pam")
	a := account.Account{UID: os.Getuid(), GID: os.Getgid()}
	e := newUnlockEntry(loginconf.Settings{SSHServer: "server", SSHOptions: []string{"-p", "1"}}, []byte("secret"))
	if err := e.write(dir, a); err != nil {
		t.Fatal(err)
	}
	if other := newUnlockEntry(loginconf.Settings{}, []byte("secret")); string(other.Hash) == string(e.Hash) {
		t.Error("the same hash twice: there is no salt")
	}
	got, err := readEntry(dir, a.UID)
	if err != nil {
		t.Fatal(err)
	}
	if !got.matches([]byte("secret")) || got.matches([]byte("secret2")) || got.matches(nil) || got.Server != "server" {
		t.Errorf("entry %+v", got)
	}
	free := newUnlockEntry(loginconf.Settings{}, nil)
	if !free.matches(nil) || !free.matches([]byte("x")) {
		t.Error("a user without a password stays locked out")
	}
	if err := free.write(dir, a); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left over: %v, %v", left, err)
	}
	for _, bad := range []*unlockEntry{{}, {Hash: make([]byte, 32)}, {Hash: make([]byte, 32), Rounds: maxRounds + 1}, {Hash: []byte("x"), Rounds: 1}} {
		if bad.matches(nil) || bad.matches([]byte("secret")) {
			t.Errorf("%+v lets in", bad)
		}
	}
}

// TestMainRefuses has PAM's program called in ways that PAM never does.
func TestMainRefuses(t *testing.T) {
	for _, args := range [][]string{nil, {"fly"}, {"auth", "x"}, {"session", "x", "y"}, {"release", "--", "x"}} {
		if code := Main(t.Context(), args, strings.NewReader(""), os.Stderr); code == 0 {
			t.Errorf("%v: let in", args)
		}
	}
	for _, kind := range []string{"", "password", "setcred"} {
		t.Setenv("PAM_TYPE", kind)
		t.Setenv("PAM_USER", "root")
		if code := Main(t.Context(), []string{"auth"}, strings.NewReader("x"), os.Stderr); code == 0 {
			t.Errorf("PAM_TYPE=%q: let in", kind)
		}
	}
}
