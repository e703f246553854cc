package accountfeed_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/accountfeed"
)

// bin makes a directory of programs: getent prints a file and sleep ends with each line that the test sends.
func bin(t *testing.T, dir string) string {
	t.Helper()
	for name, text := range map[string]string{
		"getent": "#!/bin/sh\ncat " + dir + "/$1\n",
		"sleep":  "#!/bin/sh\necho \"$1\" >&2\nread line <" + dir + "/go\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "mkfifo", filepath.Join(dir, "go")).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	return dir
}

// The command prints what satellites read: the accounts, a sign of life, and the accounts again when they have changed.
func TestCommand(t *testing.T) {
	t.Parallel()
	dir := bin(t, t.TempDir())
	accounts := func(passwd, group string) {
		t.Helper()
		for name, text := range map[string]string{"passwd": passwd, "group": group} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	accounts("ada:x:1000:1000:Ada é:/home/ada:/bin/sh", "ada:x:1000:")
	cmd := exec.CommandContext(t.Context(), "sh", "-c", accountfeed.Command())
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(out, got); err != nil || !bytes.Equal(got, []byte(want)) {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	}
	wake := func() {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "go"), []byte("\n"), 0); err != nil {
			t.Fatal(err)
		}
	}
	frame := func(passwd, group string) string {
		return fmt.Sprintf("LTSP-ACCOUNTS %d %d\n%s%s", len(passwd), len(group), passwd, group)
	}
	expect(frame("ada:x:1000:1000:Ada é:/home/ada:/bin/sh", "ada:x:1000:"))
	wake()
	expect("LTSP-ALIVE\n")
	accounts("ben:x:1001:1001::/home/ben:/bin/sh", "")
	wake()
	expect(frame("ben:x:1001:1001::/home/ben:/bin/sh", ""))
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	wake()
	if err := cmd.Wait(); err == nil {
		t.Error("the command goes on without a reader, or ended well")
	}
}
