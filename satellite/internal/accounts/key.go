package accounts

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
)

// keyName is the file of the private key, in OpenSSH's format.
const keyName = "login-key"

// loadKey reads the key pair, or makes and stores it.
func loadKey(dir, comment string) (ssh.Signer, error) {
	path := filepath.Join(dir, keyName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path, comment)
	}
	if err != nil {
		return nil, fmt.Errorf("key for the login host: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("key for the login host: %s: %w", path, err)
	}
	return signer, nil
}

func makeKey(path, comment string) (ssh.Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key for the login host: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, fmt.Errorf("make key for the login host: %w", err)
	}
	if err := atomicfile.Write(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, fmt.Errorf("store key for the login host: %w", err)
	}
	return ssh.NewSignerFromKey(private)
}

// publicKey is the line for authorized_keys, without a line end.
func publicKey(s ssh.Signer, comment string) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey()))) + " " + comment
}

// parseHostKeys reads pinned keys, each "TYPE BASE64" with or without a comment.
func parseHostKeys(lines []string) ([]ssh.PublicKey, error) {
	var out []ssh.PublicKey
	for _, line := range lines {
		key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || len(rest) > 0 {
			return nil, fmt.Errorf("pinned host key %.60q is none", line)
		}
		out = append(out, key)
	}
	return out, nil
}

// keyText names a key for people: as ssh-keygen -l and as it must be pinned.
func keyText(k ssh.PublicKey) string {
	return fmt.Sprintf("%s (%s)", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))), ssh.FingerprintSHA256(k))
}
