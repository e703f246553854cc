package enroll

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// ErrToken refuses a join token. What was wrong is told only to those who know the secret.
var ErrToken = errors.New("join token refused")

// NewToken makes a join token and the hash of its secret. fingerprint is the CA's.
func NewToken(fingerprint string) (pki.JoinToken, fleet.Hash, error) {
	raw := make([]byte, 5+20)
	if _, err := rand.Read(raw); err != nil {
		return pki.JoinToken{}, fleet.Hash{}, fmt.Errorf("make a join token: %w", err)
	}
	t := pki.JoinToken{ID: text32(raw[:5]), Secret: text32(raw[5:]), Fingerprint: fingerprint}
	return t, HashSecret(t.Secret), nil
}

func text32(b []byte) string { return strings.ToLower(base32.StdEncoding.EncodeToString(b)) }

// HashSecret is what is kept of a secret. The secret has 160 random bits, so a plain hash keeps it.
func HashSecret(secret string) fleet.Hash {
	return sha256.Sum256([]byte("ltsp join token\x00" + secret))
}

// CheckSecret compares in constant time. A token that does not exist is checked against the zero hash, so that it takes as long.
func CheckSecret(stored fleet.Hash, secret string) error {
	got := HashSecret(secret)
	if subtle.ConstantTimeCompare(stored[:], got[:]) != 1 {
		return fmt.Errorf("%w: no such token", ErrToken)
	}
	return nil
}

// Redeem decides whether a token whose secret was right may be used at now for the key and the name. again is true if it was used for just them before:
// then the answer got lost, and the same identity gets another certificate instead of being made.
func Redeem(t fleet.Token, key fleet.Hash, name string, now time.Time) (again bool, err error) {
	switch state := t.State(now); state {
	case "open":
		return false, nil
	case "used":
		if t.UsedKey == key && t.UsedBy == name && now.Before(t.Expires) {
			return true, nil
		}
		return false, fmt.Errorf("%w: it was used by %s at %s; ask for a new one", ErrToken, t.UsedBy, t.Used.Format(time.RFC3339))
	default:
		return false, fmt.Errorf("%w: it is %s; ask for a new one", ErrToken, state)
	}
}

// KeyHash names a public key.
func KeyHash(key *ecdsa.PublicKey) (fleet.Hash, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return fleet.Hash{}, fmt.Errorf("%w: %v", ErrKey, err)
	}
	return sha256.Sum256(der), nil
}
