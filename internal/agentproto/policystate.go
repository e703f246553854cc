package agentproto

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
)

// Bounds of a PolicyState and of Users. A reader refuses what exceeds them.
const (
	// MaxPolicyState bounds the JSON text of a PolicyState in bytes.
	MaxPolicyState = 256 << 10
	// MaxLayers, MaxKnownHosts and MaxCommands bound its lists, MaxKnownHost one line in bytes.
	MaxLayers     = 16
	MaxKnownHosts = 64
	MaxKnownHost  = 3 << 10
	MaxCommands   = 16
	// MaxUsers bounds the JSON text of Users, MaxAccounts passwd and group together, in bytes.
	MaxUsers    = 20 << 20
	MaxAccounts = 8 << 20
)

// ErrBadPolicy is wrapped by every error of ParsePolicyState and ParseUsers and of what they read.
var ErrBadPolicy = errors.New("bad policy state")

// ParsePolicyState reads the JSON text of a PolicyState and validates it. Fields it does not know are ignored.
func ParsePolicyState(data []byte) (*PolicyState, error) {
	if len(data) > MaxPolicyState {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrBadPolicy, len(data), MaxPolicyState)
	}
	// The version comes first: another version may give other meanings, even other types, to the rest.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBadPolicy, err)
	}
	if head.Version != Version {
		return nil, fmt.Errorf("%w: version %d, want %d", ErrBadPolicy, head.Version, Version)
	}
	var s PolicyState
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBadPolicy, err)
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return &s, nil
}

// Encode returns the JSON text and its SHA-256 in hex. Equal states have equal texts.
func (s *PolicyState) Encode() (text []byte, digest string, err error) {
	if err := s.Validate(); err != nil {
		return nil, "", err
	}
	if text, err = json.Marshal(s); err != nil {
		return nil, "", fmt.Errorf("%w: %v", ErrBadPolicy, err)
	}
	if len(text) > MaxPolicyState {
		return nil, "", fmt.Errorf("%w: %d bytes, the limit is %d", ErrBadPolicy, len(text), MaxPolicyState)
	}
	return text, Digest(text), nil
}

// Digest is the SHA-256 of data in 64 lower-case hex digits.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Validate checks s by the rules of FORMAT.md.
func (s *PolicyState) Validate() error {
	if s.Version != Version {
		return fmt.Errorf("%w: version %d, want %d", ErrBadPolicy, s.Version, Version)
	}
	for _, check := range []func(*PolicyState) error{checkLayers, checkServer, checkUsersBlob, checkKnownHosts, checkCommands} {
		if err := check(s); err != nil {
			return fmt.Errorf("%w: %w", ErrBadPolicy, err)
		}
	}
	return nil
}

func checkLayers(s *PolicyState) error {
	if len(s.Layers) > MaxLayers {
		return fmt.Errorf("%d layers, the limit is %d", len(s.Layers), MaxLayers)
	}
	for i := range s.Layers {
		l := &s.Layers[i]
		if err := CheckScope(l.Scope); err != nil {
			return err
		}
		if l.Number == 0 {
			return fmt.Errorf("layer %q has number 0", l.Scope)
		}
		if err := l.Validate(); err != nil {
			return fmt.Errorf("layer %q: %w", l.Scope, err)
		}
		for _, other := range s.Layers[:i] {
			if other.Scope == l.Scope {
				return fmt.Errorf("layer %q is named twice", l.Scope)
			}
		}
	}
	return nil
}

// CheckScope reports a text that names no level: "organisation", "site/NAME" or "room/SITE/NAME" are the forms.
func CheckScope(scope string) error {
	if scope == "organisation" {
		return nil
	}
	parts := strings.Split(scope, "/")
	if len(parts) == 2 && parts[0] == "site" || len(parts) == 3 && parts[0] == "room" {
		for _, name := range parts[1:] {
			if err := checkName("name in scope", name); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("scope %.80q is not organisation, site/NAME or room/SITE/NAME", scope)
}

func checkServer(s *PolicyState) error {
	if s.Server == "" {
		return nil
	}
	if addr, err := netip.ParseAddr(s.Server); err == nil {
		if addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "" {
			return fmt.Errorf("server %.80q is not the address of a machine", s.Server)
		}
		return nil
	}
	if !isDomain(s.Server) {
		return fmt.Errorf("server %.80q is neither an IP address nor a host name", s.Server)
	}
	return nil
}

func checkUsersBlob(s *PolicyState) error {
	if s.Users == nil {
		return nil
	}
	if s.Users.Size > MaxUsers {
		return fmt.Errorf("users of %d bytes, the limit is %d", s.Users.Size, MaxUsers)
	}
	if err := s.Users.Validate(); err != nil {
		return fmt.Errorf("users: %w", err)
	}
	return nil
}

func checkKnownHosts(s *PolicyState) error {
	if len(s.KnownHosts) > MaxKnownHosts {
		return fmt.Errorf("%d known hosts, the limit is %d", len(s.KnownHosts), MaxKnownHosts)
	}
	for _, line := range s.KnownHosts {
		if line == "" || len(line) > MaxKnownHost || strings.ContainsFunc(line, unicode.IsControl) {
			return fmt.Errorf("known host %.80q is not one line of 1 to %d bytes", line, MaxKnownHost)
		}
	}
	return nil
}

func checkCommands(s *PolicyState) error {
	if len(s.Commands) > MaxCommands {
		return fmt.Errorf("%d kinds of command, the limit is %d", len(s.Commands), MaxCommands)
	}
	for _, kind := range s.Commands {
		if !isWord(kind) {
			return fmt.Errorf("command kind %.40q", kind)
		}
	}
	return nil
}

// ParseUsers reads the JSON text of Users and validates it. Fields it does not know are ignored.
func ParseUsers(data []byte) (*Users, error) {
	if len(data) > MaxUsers {
		return nil, fmt.Errorf("%w: users of %d bytes, the limit is %d", ErrBadPolicy, len(data), MaxUsers)
	}
	var u Users
	if err := json.Unmarshal(data, &u); err != nil {
		return nil, fmt.Errorf("%w: users: %v", ErrBadPolicy, err)
	}
	if err := u.Validate(); err != nil {
		return nil, err
	}
	return &u, nil
}

// Validate checks the lengths, and of each line the number of fields, that it has a name, and that the password field is "x". What names and numbers
// may be is for those to say who use them.
func (u *Users) Validate() error {
	if n := len(u.Passwd) + len(u.Group); n > MaxAccounts {
		return fmt.Errorf("%w: accounts of %d bytes, the limit is %d", ErrBadPolicy, n, MaxAccounts)
	}
	if err := checkAccounts("passwd", u.Passwd, 7); err != nil {
		return err
	}
	return checkAccounts("group", u.Group, 4)
}

func checkAccounts(what, text string, fields int) error {
	if text == "" {
		return nil
	}
	if !strings.HasSuffix(text, "\n") {
		return fmt.Errorf("%w: %s does not end with a line end", ErrBadPolicy, what)
	}
	n := 0
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		n++
		name, rest, _ := strings.Cut(line, ":")
		switch {
		case name == "" || strings.Count(line, ":") != fields-1 || strings.ContainsFunc(line, unicode.IsControl):
			return fmt.Errorf("%w: line %d of %s is no account", ErrBadPolicy, n, what)
		case !strings.HasPrefix(rest, "x:"):
			return fmt.Errorf("%w: line %d of %s has another password field than x", ErrBadPolicy, n, what)
		}
	}
	return nil
}
