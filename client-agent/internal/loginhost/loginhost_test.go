package loginhost

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	const changed = `@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Host key for server has changed and you have requested strict checking.
Host key verification failed.
`
	for name, c := range map[string]struct {
		said    string
		outcome Outcome
		text    string
		methods []string
	}{
		"wrong password": {"ann@server: Permission denied (publickey,password).\r\n", Refused, "ann@server: Permission denied (publickey,password).", []string{"publickey", "password"}},
		"sshfs, wrong password": {"ann@server: Permission denied (keyboard-interactive).\nread: Connection reset by peer\n", Refused,
			"ann@server: Permission denied (keyboard-interactive).", []string{"keyboard-interactive"}},
		"key changed":        {changed, HostKey, "its host key is not the pinned one", nil},
		"sshfs, key changed": {changed + "read: Connection reset by peer\n", HostKey, "its host key is not the pinned one", nil},
		"no key": {"No ED25519 host key is known for server and you have requested strict checking.\nHost key verification failed.\n", HostKey,
			"no host key is pinned for it", nil},
		"revoked": {"@       WARNING: REVOKED HOST KEY DETECTED!               @\n", HostKey, "its host key is not accepted", nil},
		"refused": {"ssh: connect to host server port 22: Connection refused\r\n", Away, "ssh: connect to host server port 22: Connection refused", nil},
		"silent":  {"ssh: connect to host server port 22: Connection timed out\n", Away, "ssh: connect to host server port 22: Connection timed out", nil},
		"no name": {"ssh: Could not resolve hostname server: Name or service not known\n", Away,
			"ssh: Could not resolve hostname server: Name or service not known", nil},
		"full":         {"kex_exchange_identification: Connection closed by remote host\n", Away, "kex_exchange_identification: Connection closed by remote host", nil},
		"half-way":     {"Connection closed by 10.0.0.1 port 22\n", Away, "Connection closed by 10.0.0.1 port 22", nil},
		"expired":      {"Password change required but no TTY available.\n", Broken, "Password change required but no TTY available.", nil},
		"no sftp":      {"subsystem request failed on channel 0\n", Broken, "subsystem request failed on channel 0", nil},
		"bad options":  {"unknown option -- Q\nusage: ssh\n", Broken, "usage: ssh", nil},
		"fuse":         {"fuse: device not found, try 'modprobe fuse' first\n", Broken, "fuse: device not found, try 'modprobe fuse' first", nil},
		"without word": {"\n \n", Broken, "it failed without a word", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Classify(c.said)
			if got.Outcome != c.outcome || got.Text != c.text || !slices.Equal(got.methods, c.methods) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// TestMethods has hosts that take passwords in one way, the other, both or neither: a password is sent once.
func TestMethods(t *testing.T) {
	t.Parallel()
	for offered, want := range map[string][]string{
		"publickey,password":                      {password},
		"publickey,password,keyboard-interactive": {password},
		"keyboard-interactive":                    {password, interactive},
		"publickey":                               {password},
	} {
		var tried []string
		got := Host{Server: "server"}.eachMethod(func(options []string) Answer {
			for _, o := range options {
				if m, ok := strings.CutPrefix(o, "PreferredAuthentications="); ok {
					tried = append(tried, m)
				}
			}
			return Classify("ann@server: Permission denied (" + offered + ").")
		})
		if got.Outcome != Refused || !slices.Equal(tried, want) {
			t.Errorf("%s: %+v, tried %v", offered, got, tried)
		}
	}
}

func TestServersThatAreNone(t *testing.T) {
	t.Parallel()
	for _, server := range []string{"", "-oProxyCommand=reboot", "a b", "root@server", "a/b"} {
		got := Host{Server: server}.Check(t.Context(), "ann", []byte("x"))
		if got.Outcome != Broken {
			t.Errorf("%q: %+v", server, got)
		}
	}
}

func TestOptionsCannotLoosenThePin(t *testing.T) {
	t.Parallel()
	options := Host{Server: "server", Options: []string{"-o", "StrictHostKeyChecking=no"}}.options(password)
	if strict := slices.Index(options, "StrictHostKeyChecking=yes"); strict < 0 || strict > slices.Index(options, "StrictHostKeyChecking=no") {
		t.Errorf("options %v", options)
	}
}

func TestSecretPipe(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"", "x", strings.Repeat("ü", maxSecret/2)} {
		r, err := secretPipe([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := Askpass(r, &out); err != nil || out.String() != secret+"\n" {
			t.Errorf("%q became %q, %v", secret, out.String(), err)
		}
		if err := Askpass(r, io.Discard); err == nil {
			t.Error("the password came twice")
		}
		r.Close()
	}
	for _, secret := range []string{"a\nb", "a\x00b", strings.Repeat("x", maxSecret+1)} {
		if r, err := secretPipe([]byte(secret)); err == nil {
			r.Close()
			t.Errorf("%q was taken", secret)
		}
	}
}

func FuzzClassify(f *testing.F) {
	f.Add("a@b: Permission denied )(.\n")
	f.Fuzz(func(t *testing.T, said string) {
		if got := Classify(said); got.Outcome == 0 || got.Outcome == Accepted || got.Text == "" {
			t.Errorf("%q: %+v", said, got)
		}
	})
}
