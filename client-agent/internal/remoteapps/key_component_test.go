//go:build component

package remoteapps

import (
	"os"
	"path/filepath"
	"testing"
)

// TestEnsureKeyAtOnce has many launchers start together for a user without a key.
func TestEnsureKeyAtOnce(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	each(make([]Host, 6), func(Host) error {
		err := ensureKey(t.Context(), home)
		if err != nil {
			t.Error(err)
		}
		return err
	})
	dir := filepath.Join(home, ".ssh")
	public, err := os.ReadFile(filepath.Join(dir, "id_ed25519.pub"))
	if err != nil {
		t.Fatal(err)
	}
	derived, err := keygen(t.Context(), "-y", "-P", "", "-f", filepath.Join(dir, "id_ed25519"))
	if err != nil || string(derived) != string(public) {
		t.Errorf("private and public key differ: %q, %q, %v", derived, public, err)
	}
	authorized, err := os.ReadFile(filepath.Join(dir, "authorized_keys"))
	if err != nil || !has(string(authorized), string(public)) {
		t.Errorf("authorized: %q, %v", authorized, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 3 {
		t.Errorf("files: %v, %v", left, err)
	}
	// A key whose public half is missing is used.
	if err := os.Remove(filepath.Join(dir, "id_ed25519.pub")); err != nil {
		t.Fatal(err)
	}
	if err := ensureKey(t.Context(), home); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(filepath.Join(dir, "id_ed25519.pub")); err != nil || string(again) != string(public) {
		t.Errorf("public key %q, %v", again, err)
	}
}
