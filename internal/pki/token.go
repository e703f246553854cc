package pki

import (
	"encoding/hex"
	"errors"
	"regexp"
	"strings"
)

// JoinToken is the one-time secret that a satellite or an admin enrols with. Its text form is ltsp-ID-SECRET-FINGERPRINT.
type JoinToken struct {
	// ID names the token in lists; it is no secret. 8 of a-z and 2-7.
	ID string
	// Secret proves that its holder got the token from an admin. 32 of a-z and 2-7.
	Secret string
	// Fingerprint is that of the CA certificate: with it, a machine that knows nothing else knows its controller (EnrolTLS).
	Fingerprint string
}

// ErrToken is returned for a text that is no join token. It never repeats the text.
var ErrToken = errors.New("not a join token: want ltsp-ID-SECRET-FINGERPRINT, as printed when it was made")

var (
	tokenIDRule     = regexp.MustCompile(`^[a-z2-7]{8}$`)
	tokenSecretRule = regexp.MustCompile(`^[a-z2-7]{32}$`)
)

// ParseToken reads the text form; space around it is ignored. The error is ErrToken.
func ParseToken(s string) (JoinToken, error) {
	parts := strings.Split(strings.TrimSpace(s), "-")
	if len(parts) != 4 || parts[0] != "ltsp" || !tokenIDRule.MatchString(parts[1]) || !tokenSecretRule.MatchString(parts[2]) {
		return JoinToken{}, ErrToken
	}
	if raw, err := hex.DecodeString(parts[3]); err != nil || len(raw) != 32 || strings.ToLower(parts[3]) != parts[3] {
		return JoinToken{}, ErrToken
	}
	return JoinToken{ID: parts[1], Secret: parts[2], Fingerprint: parts[3]}, nil
}

// Text returns the text form, with the secret. There is no String method, so that no log line gets it by accident.
func (t JoinToken) Text() string {
	return "ltsp-" + t.ID + "-" + t.Secret + "-" + t.Fingerprint
}
