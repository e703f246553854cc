package loginkey_test

import (
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/loginkey"
	"github.com/ltsp-fleet/ltsp-fleet/internal/accountfeed"
)

const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFvM4Dj5LKlrXJfDwVkTXJWlv9pDvnS9ZbfjBTq9YxzR"

// The line reads as sshd reads it: one key, restricted, with the command as it is.
func TestLine(t *testing.T) {
	t.Parallel()
	line, err := loginkey.Line("sat1", key+" told-by-satellite")
	if err != nil {
		t.Fatal(err)
	}
	got, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(rest) > 0 || comment != "ltsp-fleet-sat1" || strings.TrimSpace(string(ssh.MarshalAuthorizedKey(got))) != key {
		t.Fatalf("line %s: %v", line, err)
	}
	want := `command="` + strings.ReplaceAll(accountfeed.Command(), `"`, `\"`) + `"`
	if len(options) != 2 || options[0] != "restrict" || options[1] != want {
		t.Errorf("options %q", options)
	}
	for _, bad := range []string{"", "x", `command="sh" ` + key, key + "\n" + key, "from=\"*\" " + key} {
		if line, err := loginkey.Line("sat1", bad); err == nil {
			t.Errorf("%q gives %q", bad, line)
		}
	}
}
