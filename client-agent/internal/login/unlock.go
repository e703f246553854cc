package login

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/account"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginhost"
)

// unlockDir has a file for each user who has logged in since the client started, named by his number. Root makes them; each is its user's to read and
// nobody else's. Screen locks run PAM as the user, who cannot read shadow(5) nor the settings.
const unlockDir = "/run/ltsp/pam"

// unlockEntry is what a screen lock goes by.
type unlockEntry struct {
	// Free unlocks without a look at the password: the user has none of his own.
	Free bool `json:"free,omitempty"`
	// Salt, Rounds and Hash are PBKDF2 with SHA-256 of the password that the login host took last.
	Salt   []byte `json:"salt,omitempty"`
	Rounds int    `json:"rounds,omitempty"`
	Hash   []byte `json:"hash,omitempty"`
	// Server and Options are asked if the password is not that one: it may have been changed meanwhile.
	Server  string   `json:"server,omitempty"`
	Options []string `json:"options,omitempty"`
}

// rounds make a guess cost about a tenth of a second of a PC's time.
const (
	rounds    = 400_000
	maxRounds = 10_000_000
	hashSize  = 32
	maxEntry  = 16 << 10 // bytes of a file
)

// newUnlockEntry returns the entry for a password; nil stands for users who have none of their own.
func newUnlockEntry(s loginconf.Settings, password []byte) *unlockEntry {
	if password == nil {
		return &unlockEntry{Free: true}
	}
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	e := &unlockEntry{Salt: salt, Rounds: rounds, Server: s.SSHServer, Options: s.SSHOptions}
	e.Hash, _ = pbkdf2.Key(sha256.New, string(password), salt, rounds, hashSize) // fails only for sizes of no sense
	return e
}

// matches tells whether a password is the one of the entry.
func (e *unlockEntry) matches(password []byte) bool {
	if e.Free {
		return true
	}
	if len(e.Hash) != hashSize || e.Rounds < 1 || e.Rounds > maxRounds {
		return false
	}
	hash, err := pbkdf2.Key(sha256.New, string(password), e.Salt, e.Rounds, hashSize)
	return err == nil && subtle.ConstantTimeCompare(hash, e.Hash) == 1
}

// remember keeps what a screen lock will need.
func (h *handler) remember(password []byte) { h.rememberEntry(newUnlockEntry(h.settings, password)) }

func (h *handler) rememberEntry(e *unlockEntry) {
	if err := e.write(unlockDir, h.account); err != nil {
		h.say("The screen lock will not know your password: " + err.Error())
	}
}

// write replaces the user's file.
func (e *unlockEntry) write(dir string, a account.Account) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it has another name if all went well
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(0o400)
	}
	if err == nil {
		err = f.Chown(a.UID, a.GID)
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, strconv.Itoa(a.UID)))
}

// readEntry reads a user's file.
func readEntry(dir string, uid int) (*unlockEntry, error) {
	f, err := os.Open(filepath.Join(dir, strconv.Itoa(uid)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxEntry))
	if err != nil {
		return nil, err
	}
	e := new(unlockEntry)
	if err := json.Unmarshal(text, e); err != nil {
		return nil, fmt.Errorf("read what the screen lock goes by: %w", err)
	}
	return e, nil
}

// unlock answers for a password that PAM asked for as the user himself. Nobody can unlock as another: the file is his alone.
func (h *handler) unlock(ctx context.Context) bool {
	if account.System.NameOf(h.uid) != h.user {
		return false
	}
	e, err := readEntry(unlockDir, h.uid)
	if err != nil {
		return false // he has not logged in by us
	}
	password, err := h.password(account.Secret{})
	defer clear(password)
	if e.matches(password) {
		return true
	}
	if err != nil || e.Server == "" {
		return false
	}
	h.settings = loginconf.Settings{SSHServer: e.Server, SSHOptions: e.Options}
	answer := h.host().Check(ctx, h.user, password)
	if text, _ := words(e.Server, answer); text != "" {
		h.say(text)
	}
	return answer.Outcome == loginhost.Accepted
}
