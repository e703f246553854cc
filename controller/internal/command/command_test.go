package command_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/command"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := command.New()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestCommands(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	out, err := run(t, "init", "--data-dir", dir, "--address", "ctl.example.org:7000")
	if err != nil || !strings.Contains(out, "ctl.example.org:7000") || !strings.Contains(out, filepath.Join(dir, "admin.yaml")) {
		t.Errorf("init: %v\n%s", err, out)
	}
	if _, err := run(t, "init", "--data-dir", dir); err == nil {
		t.Error("second init")
	}
	if out, err := run(t, "version"); err != nil || !strings.HasPrefix(out, "ltsp-controller ") {
		t.Errorf("version: %v\n%s", err, out)
	}
	if out, err := run(t, "completion", "bash"); err != nil || !strings.Contains(out, "ltsp-controller") {
		t.Errorf("completion: %v", err)
	}
	context := filepath.Join(t.TempDir(), "contexts.yaml")
	if out, err := run(t, "admin", "add", "berta", "--data-dir", dir, "--admin-context", context); err != nil || !strings.Contains(out, context) {
		t.Errorf("admin add: %v\n%s", err, out)
	}
	if _, err := run(t, "admin", "revoke", "berta", "--data-dir", dir); err != nil {
		t.Errorf("admin revoke: %v", err)
	}
	for _, args := range [][]string{
		{"admin", "add", "carla", "--data-dir", dir}, {"admin", "revoke", "nobody", "--data-dir", dir}, {"admin", "explode"},
		{"serve", "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0", "--metrics", ""}, {"serve", "--data-dir", dir, "--log-level", "loud"},
		{"serve", "--data-dir", dir, "--log-format", "xml"}, {"serve", "extra"}, {"explode"},
	} {
		if _, err := run(t, args...); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
