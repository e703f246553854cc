package agentproto

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func examplePolicy(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestParsePolicyState(t *testing.T) {
	t.Parallel()
	s, err := ParsePolicyState(examplePolicy(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Layers) != 3 || s.Layers[2].Scope != "room/hill/r1" || s.Layers[0].Size != 5120 || s.Server != "192.168.67.5" || s.Users == nil || len(s.KnownHosts) != 1 || len(s.Commands) != 4 {
		t.Errorf("read %+v", s)
	}
	text, digest, err := s.Encode()
	if err != nil || digest != Digest(text) || len(digest) != 64 {
		t.Fatalf("digest %s, %v", digest, err)
	}
	again, err := ParsePolicyState(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, again); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

func TestPolicyStateRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*PolicyState){
		"version":          func(s *PolicyState) { s.Version = 2 },
		"scope":            func(s *PolicyState) { s.Layers[0].Scope = "organisation/x" },
		"scope of nothing": func(s *PolicyState) { s.Layers[0].Scope = "site/" },
		"deep scope":       func(s *PolicyState) { s.Layers[0].Scope = "room/a/b/c" },
		"scope twice":      func(s *PolicyState) { s.Layers[1].Scope = s.Layers[0].Scope },
		"number":           func(s *PolicyState) { s.Layers[1].Number = 0 },
		"layer's digest":   func(s *PolicyState) { s.Layers[1].SHA256 = "x" },
		"layer's size":     func(s *PolicyState) { s.Layers[1].Size = MaxBlob + 1 },
		"layers":           func(s *PolicyState) { s.Layers = make([]PolicyLayer, MaxLayers+1) },
		"server":           func(s *PolicyState) { s.Server = "a b" },
		"server's address": func(s *PolicyState) { s.Server = "0.0.0.0" },
		"users":            func(s *PolicyState) { s.Users.Size = MaxUsers + 1 },
		"users' digest":    func(s *PolicyState) { s.Users.SHA256 = "" },
		"known host":       func(s *PolicyState) { s.KnownHosts[0] = "a\nb" },
		"empty known host": func(s *PolicyState) { s.KnownHosts[0] = "" },
		"long known host":  func(s *PolicyState) { s.KnownHosts[0] = strings.Repeat("x", MaxKnownHost+1) },
		"known hosts":      func(s *PolicyState) { s.KnownHosts = make([]string, MaxKnownHosts+1) },
		"commands":         func(s *PolicyState) { s.Commands = make([]string, MaxCommands+1) },
		"command":          func(s *PolicyState) { s.Commands[0] = "Run!" },
	}
	for name, change := range tests {
		s, err := ParsePolicyState(examplePolicy(t))
		if err != nil {
			t.Fatal(err)
		}
		change(s)
		if err := s.Validate(); !errors.Is(err, ErrBadPolicy) {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := s.Encode(); !errors.Is(err, ErrBadPolicy) {
			t.Errorf("%s is encoded: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"no JSON": "x", "no version": "{}", "other version with other types": `{"version":2,"layers":"none"}`, "types": `{"version":1,"layers":"none"}`,
		"too long": `{"version":1,"server":"` + strings.Repeat("a", MaxPolicyState) + `"}`,
	} {
		if _, err := ParsePolicyState([]byte(text)); !errors.Is(err, ErrBadPolicy) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, ok := range []string{`{"version":1}`, `{"version":1,"server":"login.school.example","layers":[],"commands":null}`, `{"version":1,"server":"fd00::5"}`} {
		if _, err := ParsePolicyState([]byte(ok)); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
}

func TestParseUsers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		ok         bool
	}{
		{"empty", `{}`, true},
		{"accounts", `{"passwd":"root:x:0:0:root:/root:/bin/bash\nanna:x:1000:1000:Änna,,,:/home/anna:/bin/bash\n","group":"pupils:x:1000:anna,ben\n"}`, true},
		{"hash", `{"passwd":"anna:$6$x:1000:1000::/home/anna:/bin/sh\n"}`, false},
		{"no password", `{"passwd":"anna::1000:1000::/home/anna:/bin/sh\n"}`, false},
		{"few fields", `{"passwd":"anna:x:1000:1000::/home/anna\n"}`, false},
		{"many fields", `{"group":"a:x:1:b:c\n"}`, false},
		{"no name", `{"group":":x:1:b\n"}`, false},
		{"no line end", `{"group":"a:x:1:b"}`, false},
		{"empty line", `{"group":"a:x:1:b\n\n"}`, false},
		{"control character", `{"group":"a\u0000:x:1:b\n"}`, false},
		{"carriage return", `{"group":"a:x:1:b\r\n"}`, false},
		{"no JSON", `x`, false},
		{"too many", `{"group":"` + strings.Repeat(`a:x:1:b\n`, MaxAccounts/8+1) + `"}`, false},
		{"too long", `{"other":"` + strings.Repeat(`x`, MaxUsers) + `"}`, false},
	}
	for _, tt := range tests {
		if _, err := ParseUsers([]byte(tt.text)); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrBadPolicy) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func FuzzParsePolicyState(f *testing.F) {
	f.Add(examplePolicy(f))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParsePolicyState(data)
		if err != nil {
			return
		}
		text, _, err := s.Encode()
		if err != nil && len(data) > MaxPolicyState/6 {
			return // escapes can make a text longer than it was
		}
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParsePolicyState(text)
		if err != nil {
			t.Fatal(err)
		}
		second, _, err := again.Encode()
		if err != nil || string(second) != string(text) {
			t.Fatalf("%s became %s, %v", text, second, err)
		}
	})
}

func FuzzParseUsers(f *testing.F) {
	f.Add([]byte(`{"passwd":"root:x:0:0:root:/root:/bin/bash\n","group":"root:x:0:\n"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := ParseUsers(data)
		if err != nil {
			return
		}
		if strings.ContainsRune(u.Passwd+u.Group, 0) {
			t.Error("a zero byte passed")
		}
	})
}
