package accounts

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/ltsp-fleet/ltsp-fleet/internal/accountfeed"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

func frame(passwd, group string) string {
	return fmt.Sprintf("%s%d %d\n%s%s", accountsMark, len(passwd), len(group), passwd, group)
}

func TestFrames(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in string
		want     []texts
		end      error
	}{
		{"nothing", "", nil, io.EOF},
		{"two", frame("a:x", "b:x") + aliveMark + "\n" + frame("", "c"), []texts{{"a:x", "b:x"}, {"", "c"}}, io.EOF},
		{"lines in accounts", frame("a\nLTSP-ALIVE\nb", "c\n"), []texts{{"a\nLTSP-ALIVE\nb", "c\n"}}, io.EOF},
		{"greeting", "Welcome\r\nto the host\n" + frame("a", "b"), []texts{{"a", "b"}}, io.EOF},
		{"carriage returns", strings.Replace(frame("a", "b"), "\n", "\r\n", 1), []texts{{"a", "b"}}, io.EOF},
		{"blanks from wc", "LTSP-ACCOUNTS   1   1\nab", []texts{{"a", "b"}}, io.EOF},
		{"endless greeting", strings.Repeat("hello\n", maxGreeting+1) + frame("a", "b"), nil, errFrame},
		{"greeting afterwards", frame("a", "b") + "hello\n", []texts{{"a", "b"}}, errFrame},
		{"long line", strings.Repeat("x", maxLine+1), nil, errFrame},
		{"cut", frame("abc", "def")[:20], nil, errFrame},
		{"one length", accountsMark + "4\nabcd", nil, errFrame},
		{"negative", accountsMark + "-1 1\nabcd", nil, errFrame},
		{"too long", fmt.Sprintf("%s%d 1\n", accountsMark, maxText), nil, errFrame},
		{"far too long", accountsMark + "99999999999999999999 1\n", nil, errFrame},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFrames(iotest.OneByteReader(strings.NewReader(tt.in)))
			var got []texts
			var err error
			for err == nil {
				var x texts
				var alive bool
				if x, alive, err = f.next(); err == nil && !alive {
					got = append(got, x)
				}
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(texts{})); diff != "" || !errors.Is(err, tt.end) {
				t.Errorf("end %v, want %v; (-want +got):\n%s", err, tt.end, diff)
			}
		})
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	in := texts{
		passwd: strings.Join([]string{
			"root:$6$salt$hash:0:0:root:/root:/bin/bash", "anna:x:1000:1000:Anna Ä,,,:/home/anna:/bin/bash", "anna:x:1999:1999:twin:/home/anna:/bin/bash",
			`SCHOOL\ben:*:100001:100001:Ben:/home/ben:/bin/bash`, "latin:x:1001:1001:J\xfcrgen:/home/l:/bin/sh", "+::::::", "", "few:x:1:1", "many:x:1:1:::/:/bin/sh:x",
			"id:x:one:1::/:/bin/sh", "minus:x:-1:1::/:/bin/sh", "none:x:4294967295:1::/:/bin/sh", "../etc:x:1:1::/:/bin/sh", "-rf:x:1:1::/:/bin/sh", ":x:1:1::/:/bin/sh",
			"$(reboot):x:1002:1002::/home/r:/bin/sh", "home:x:1:1::home:/bin/sh", "tab:x:1:1:a\tb:/:/bin/sh", "two words:x:1003:1003::/home/two:", "end :x:1:1::/:/bin/sh",
		}, "\n"),
		group: "root:x:0:\npupils:hash:1000:anna,ben,,../x,SCHOOL\\ben\ndomain users:x:5:\nbad:x:x:\nshort:x:1\npupils:x:7:",
	}
	c, err := clean(in)
	if err != nil {
		t.Fatal(err)
	}
	want := cleaned{Users: agentproto.Users{
		Passwd: "root:x:0:0:root:/root:/bin/bash\nanna:x:1000:1000:Anna Ä,,,:/home/anna:/bin/bash\nSCHOOL\\ben:x:100001:100001:Ben:/home/ben:/bin/bash\n" +
			"latin:x:1001:1001:J?rgen:/home/l:/bin/sh\n$(reboot):x:1002:1002::/home/r:/bin/sh\ntwo words:x:1003:1003::/home/two:\n",
		Group: "root:x:0:\npupils:x:1000:anna,ben,SCHOOL\\ben\ndomain users:x:5:\n",
	}, users: 4, dropped: 12}
	if diff := cmp.Diff(want, c, cmp.AllowUnexported(cleaned{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, in := range map[string]texts{"nothing": {}, "no groups": {passwd: in.passwd}, "no users": {group: in.group}} {
		if _, err := clean(in); !errors.Is(err, errFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte(frame("root:x:0:0::/root:/bin/sh", "root:x:0:") + aliveMark + "\n" + frame("", "")))
	f.Add([]byte("hello\n" + accountsMark + "1 1\nab"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := newFrames(strings.NewReader(string(in)))
		for {
			got, alive, err := r.next()
			if err != nil {
				return
			}
			if alive && got != (texts{}) {
				t.Fatalf("a sign of life with accounts %q", got)
			}
			c, err := clean(got)
			if err != nil {
				continue
			}
			if err := c.Validate(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzClean(f *testing.F) {
	f.Add("root:x:0:0::/root:/bin/sh\n", "root:x:0:a,b\n")
	f.Fuzz(func(t *testing.T, passwd, group string) {
		c, err := clean(texts{passwd, group})
		if err != nil {
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		again, err := clean(texts{c.Passwd, c.Group})
		if err != nil || again.Users != c.Users || again.dropped != 0 {
			t.Fatalf("cleaned again: %q, %d dropped, %v; before %q", again.Users, again.dropped, err, c.Users)
		}
	})
}

// TestScript runs the script in this machine's shells with a getent and a sleep of the test's.
func TestScript(t *testing.T) {
	t.Parallel()
	if strings.ContainsAny(accountfeed.Script(), "'\n!") {
		t.Error("the script does not fit into single quotes")
	}
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("getent", "#!/bin/sh\ncat "+dir+"/$1\n", 0o700)
	write("sleep", "#!/bin/sh\nread x <&3\n", 0o700) // each line on descriptor 3 ends one
	write("passwd", "anna:x:1000:1000:Änna %s \\n:/home/anna:/bin/sh\n", 0o600)
	write("group", "pupils:x:1000:anna\n", 0o600)
	next, turn, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", accountfeed.Command())
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
	cmd.ExtraFiles = []*os.File{next}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	next.Close()
	f := newFrames(out)
	accounts := func() (t texts, err error) {
		for alive := true; alive && err == nil; {
			t, alive, err = f.next()
		}
		return t, err
	}
	got, err := accounts()
	if err != nil || got != (texts{"anna:x:1000:1000:Änna %s \\n:/home/anna:/bin/sh", "pupils:x:1000:anna"}) {
		t.Fatalf("first: %q, %v", got, err)
	}
	write("group", "pupils:x:1000:anna,ben\n", 0o600)
	if _, err := turn.WriteString("\n\n\n"); err != nil {
		t.Fatal(err)
	}
	if got, err = accounts(); err != nil || got.group != "pupils:x:1000:anna,ben" {
		t.Fatalf("second: %q, %v", got, err)
	}
	// Without a reader it ends: it must not stay behind on the login host when the connection is gone.
	out.Close()
	turn.Close()
	if err := cmd.Wait(); err == nil {
		t.Error("the script ended with success")
	}
}
