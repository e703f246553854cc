package remoteapps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/spool"
	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
)

// ensureKey sees to it that one of the user's public keys is in his authorized_keys, which the hosts read too: the home is the same there. A user without
// a key gets one. What the user has is not changed.
func ensureKey(ctx context.Context, home string) error {
	dir := filepath.Join(home, ".ssh")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	publics, err := filepath.Glob(filepath.Join(dir, "*.pub"))
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	authorized := filepath.Join(dir, "authorized_keys")
	known, err := os.ReadFile(authorized)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the keys: %w", err)
	}
	var first string
	for _, name := range publics {
		key, err := readKey(name)
		if err != nil {
			continue
		}
		if has(string(known), key) {
			return nil
		}
		if first == "" {
			first = key
		}
	}
	if first == "" {
		if first, err = makeKey(ctx, dir); err != nil {
			return err
		}
	}
	return appendLine(authorized, known, first)
}

// readKey returns the line of a public key file.
func readKey(name string) (string, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if len(strings.Fields(line)) < 2 {
		return "", fmt.Errorf("%s is no public key", name)
	}
	return strings.TrimSpace(line), nil
}

// has tells whether a line of authorized_keys, with whatever options and comment, has the key.
func has(authorized, key string) bool {
	want := strings.Fields(key)[1]
	for line := range strings.Lines(authorized) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") && slices.Contains(strings.Fields(line), want) {
			return true
		}
	}
	return false
}

// makeKey makes id_ed25519 and returns the public key. Of several launchers that do so at once one wins; each goes on with the key that is there.
func makeKey(ctx context.Context, dir string) (string, error) {
	name := filepath.Join(dir, "id_ed25519")
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		if err := newKey(ctx, name); err != nil {
			return "", err
		}
	}
	// The public key follows from the private one: another launcher may have made that, or one that did not get any further.
	out, err := keygen(ctx, "-y", "-P", "", "-f", name)
	if err != nil {
		return "", fmt.Errorf("read the public key of %s: %w", name, err)
	}
	if err := atomicfile.Write(name+".pub", out, 0o644); err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	return readKey(name + ".pub")
}

// newKey puts a new private key at name, unless one has come there meanwhile.
func newKey(ctx context.Context, name string) error {
	dir, err := os.MkdirTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	defer os.RemoveAll(dir)
	temp := filepath.Join(dir, "key")
	if _, err := keygen(ctx, "-q", "-t", "ed25519", "-N", "", "-f", temp); err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	err = os.Link(temp, name)
	if err != nil && !errors.Is(err, fs.ErrExist) { // a file system without links; the others' chance is small
		err = os.Rename(temp, name)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a key: %w", err)
	}
	return nil
}

// keygen runs ssh-keygen, which asks nothing.
func keygen(ctx context.Context, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, "ssh-keygen", args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("%w: %s", err, spool.Clean(string(exit.Stderr), 200))
	}
	return out, err
}

// appendLine adds a line to a file in one write.
func appendLine(name string, content []byte, line string) error {
	if len(content) > 0 && content[len(content)-1] != '\n' {
		line = "\n" + line
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("authorize the key: %w", err)
	}
	if _, err := f.WriteString(line + "\n"); err != nil {
		f.Close()
		return fmt.Errorf("authorize the key: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("authorize the key: %w", err)
	}
	return nil
}
