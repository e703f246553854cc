package clients

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// A token is 16 bytes. Without a key all are random and only this registry knows them. With a key, which the satellites of a site
// share, the first half is random and the second an HMAC over MAC and first half, so that a client that moves to another satellite, or
// reports again after a restart, is believed without any exchange between satellites.
const (
	tokenBytes = 16
	nonceBytes = 8
	// maxTokens is how many tokens of a client are valid: a script that fetches the boot configuration again must not lock out the PC.
	maxTokens = 4
)

// SetTokenKey sets the secret from which tokens are made and by which those of other satellites are known; empty means none. It is never used
// itself, only a key derived from it, so it may be the site's gossip key.
func (r *Registry) SetTokenKey(secret []byte) {
	var key []byte
	if len(secret) > 0 {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte("ltsp report token 1"))
		key = mac.Sum(nil)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.key = key
}

// IssueToken makes the token of a boot: 32 hex digits. mac is aa:bb:cc:dd:ee:ff.
func (r *Registry) IssueToken(mac string) (string, error) {
	var raw [tokenBytes]byte
	if _, err := io.ReadFull(r.cfg.Random, raw[:]); err != nil {
		return "", fmt.Errorf("make report token: %w", err)
	}
	now := r.cfg.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.key != nil {
		copy(raw[nonceBytes:], sign(r.key, mac, raw[:nonceBytes]))
	}
	token := hex.EncodeToString(raw[:])
	c := r.clientLocked(mac, now)
	c.LastSeen = now
	if len(c.tokens) >= maxTokens {
		c.tokens = slices.Delete(c.tokens, 0, len(c.tokens)-maxTokens+1)
	}
	c.tokens = append(c.tokens, token)
	c.unsaved = true
	return token, nil
}

func sign(key []byte, mac string, nonce []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(mac))
	h.Write(nonce)
	return h.Sum(nil)[:tokenBytes-nonceBytes]
}

// Hello checks the first line of an agent, which arrived from addr. ErrToken if the token is not one that this client was given.
func (r *Registry) Hello(h agentproto.Hello, addr netip.Addr) error {
	now := r.cfg.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.validLocked(h.MAC, h.Token) {
		return fmt.Errorf("%w: %s", ErrToken, h.MAC)
	}
	c := r.clientLocked(h.MAC, now)
	c.LastSeen, c.known = now, true
	r.moveLocked(c, addr.Unmap())
	if h.UUID != "" {
		c.UUID = h.UUID
	}
	c.Agent, c.BootID = cleanText(h.Agent, maxName), cleanText(h.BootID, maxName)
	return nil
}

func (r *Registry) validLocked(mac, token string) bool {
	if c := r.clients[mac]; c != nil {
		for _, t := range c.tokens {
			if subtle.ConstantTimeCompare([]byte(t), []byte(token)) == 1 {
				return true
			}
		}
	}
	raw, err := hex.DecodeString(token)
	if r.key == nil || err != nil || len(raw) != tokenBytes {
		return false
	}
	return hmac.Equal(raw[nonceBytes:], sign(r.key, mac, raw[:nonceBytes]))
}
