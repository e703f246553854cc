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

// makeKey makes id_ed25519 by way of a temporary name, and returns the public key.
func makeKey(ctx context.Context, dir string) (string, error) {
	name := filepath.Join(dir, "id_ed25519")
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is there without its public key: %w", name, errors.Join(fs.ErrExist, err))
	}
	temp := fmt.Sprintf("%s.new-%d", name, os.Getpid())
	defer os.Remove(temp) // not there any more if all went well
	defer os.Remove(temp + ".pub")
	out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", temp).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("make a key: %w: %.200s", err, out)
	}
	key, err := readKey(temp + ".pub")
	if err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	if err := os.Rename(temp, name); err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	if err := os.Rename(temp+".pub", name+".pub"); err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	return key, nil
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
