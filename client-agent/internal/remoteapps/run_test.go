package remoteapps

import (
	"bufio"
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	hosts := []Host{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	for name, c := range map[string]struct {
		probes []probe
		inUse  []string
		want   int
	}{
		"nobody was asked":        {nil, nil, 0},
		"nobody tells":            {make([]probe, 3), nil, 0},
		"the least loaded":        {[]probe{{true, 2, false}, {true, 0.5, false}, {true, 1, false}}, nil, 1},
		"as much as another":      {[]probe{{true, 1, false}, {true, 1, false}, {true, 1, false}}, nil, 0},
		"the first does not tell": {[]probe{{}, {}, {true, 9, false}}, nil, 2},
		"where something runs":    {[]probe{{true, 0, false}, {true, 0, false}, {true, 9, false}}, []string{"gone", "c"}, 2},
		"nobody asked, but there": {nil, []string{"b"}, 1},
	} {
		if got := choose(hosts, c.probes, c.inUse); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestParseProbe(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]probe{
		"1.50 0.1 0.2 1/2 3\n2\n":                   {true, 0.75, false},
		"0.00 0.1 0.2 1/2 3\n4\n/usr/bin/waypipe\n": {true, 0, true},
		"":                        {},
		"1.50 0.1 0.2 1/2 3\n":    {},
		"x 0.1 0.2\n2\n":          {},
		"NaN 0.1 0.2\n2\n":        {},
		"-1 0.1 0.2\n2\n":         {},
		"1 0.1 0.2\n0\n":          {},
		"sh: no such thing\n\n\n": {},
	} {
		if got := parseProbe(text); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

func TestAddress(t *testing.T) {
	t.Parallel()
	for want, host := range map[string]Host{
		"a:22":         {Name: "a"},
		"a:2222":       {Name: "a", Port: 2222, Options: []string{"-p", "1"}},
		"a:1":          {Name: "a", Options: []string{"-C", "-p", "1"}},
		"a:2":          {Name: "a", Options: []string{"-p2"}},
		"a:3":          {Name: "a", Options: []string{"-o", "Port=3"}},
		"a:4":          {Name: "a", Options: []string{"-oport=4"}},
		"[fd00::1]:22": {Name: "fd00::1", Options: []string{"-p"}},
	} {
		if got := host.address(); got != want {
			t.Errorf("%+v: %s, want %s", host, got, want)
		}
	}
}

// TestAnswers has servers of several kinds.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		say  string
		want bool
	}{
		"an SSH server":      {"SSH-2.0-x\r\n", true},
		"with words before":  {"hello\r\nSSH-2.0-x\r\n", true},
		"something else":     {"220 mail\r\n", false},
		"says nothing":       {"", false},
		"words without end":  {strings.Repeat("x", 4096), false},
		"lines without end":  {strings.Repeat("x\n", 4096), false},
		"half of a greeting": {"SSH", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = conn.Write([]byte(c.say)) // the other side may have had enough
			}()
			if got := answers(t.Context(), listener.Addr().String()); got != c.want {
				t.Errorf("%v", got)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if answers(ctx, "127.0.0.1:1") {
		t.Error("an answer from nowhere")
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	host := Host{Name: "app", Port: 2222, Options: []string{"-C"}}
	x11 := map[string]string{"DISPLAY": ":0"}
	for name, c := range map[string]struct {
		app            App
		env            map[string]string
		waypipe, batch bool
		first          []string
		last           string
	}{
		"X11":                   {App{Exec: "xeyes -x"}, x11, false, true, []string{"ssh", "-X", "-o"}, `xeyes -x 'a b' 'it'\''s' '$HOME'`},
		"trusted":               {App{Exec: "xeyes", Trusted: true}, x11, false, false, []string{"ssh", "-Y", "-o"}, `xeyes 'a b' 'it'\''s' '$HOME'`},
		"Wayland":               {App{Exec: "foot"}, nil, true, true, []string{"waypipe", "ssh", "-o"}, `foot 'a b' 'it'\''s' '$HOME'`},
		"Wayland and X11":       {App{Exec: "foot"}, x11, true, true, []string{"waypipe", "ssh", "-X", "-o"}, `foot 'a b' 'it'\''s' '$HOME'`},
		"no screen of any sort": {App{Exec: "make"}, nil, false, true, []string{"ssh", "-X", "-o"}, `make 'a b' 'it'\''s' '$HOME'`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &Launcher{App: c.app, Args: []string{"a b", "it's", "$HOME"}, Getenv: func(k string) string { return c.env[k] }}
			line := l.commandLine(host, c.waypipe, c.batch)
			if diff := cmp.Diff(c.first, line[:len(c.first)]); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{"-p", "2222", "-C", "app", c.last}, line[len(line)-5:]); diff != "" {
				t.Error(diff)
			}
			if slices.Contains(line, "BatchMode=yes") != c.batch || !slices.Contains(line, "StrictHostKeyChecking=yes") {
				t.Errorf("options %v", line)
			}
		})
	}
}

const (
	keyA = "ssh-ed25519 AAAAkeyA ann@pc"
	keyB = "ssh-rsa AAAAkeyB ann@pc"
)

// TestEnsureKeyOfTheUser has users who have keys already; nothing is made for them.
func TestEnsureKeyOfTheUser(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"authorized":               {map[string]string{"id_rsa.pub": keyB + "\n", "authorized_keys": "# mine\n" + keyB + "\n"}, "# mine\n" + keyB + "\n"},
		"with another comment":     {map[string]string{"id_rsa.pub": keyB, "authorized_keys": `from="10.*" ` + keyB + " old\n"}, `from="10.*" ` + keyB + " old\n"},
		"the second is authorized": {map[string]string{"a.pub": keyA, "b.pub": keyB, "authorized_keys": keyB + "\n"}, keyB + "\n"},
		"none is":                  {map[string]string{"a.pub": keyA, "b.pub": keyB}, keyA + "\n"},
		"a list without line end":  {map[string]string{"a.pub": keyA, "authorized_keys": keyB}, keyB + "\n" + keyA + "\n"},
		"switched off":             {map[string]string{"a.pub": keyA, "authorized_keys": "#" + keyA + "\n"}, "#" + keyA + "\n" + keyA + "\n"},
		"not a key":                {map[string]string{"a.pub": "nonsense", "b.pub": keyB}, keyB + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			dir := filepath.Join(home, ".ssh")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for name, text := range c.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if err := ensureKey(t.Context(), home); err != nil {
					t.Fatal(err)
				}
			}
			got, err := os.ReadFile(filepath.Join(dir, "authorized_keys"))
			if diff := cmp.Diff(c.want, string(got)); diff != "" || err != nil {
				t.Error(diff, err)
			}
		})
	}
}

func TestEnsureKeyRefusesHalfAKey(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	private := filepath.Join(home, ".ssh", "id_ed25519")
	if err := os.MkdirAll(filepath.Dir(private), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(private, []byte("private"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ensureKey(t.Context(), home); err == nil {
		t.Error("no error")
	}
	if text, err := os.ReadFile(private); err != nil || string(text) != "private" {
		t.Errorf("the key became %q, %v", text, err)
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	tail := &tail{to: bufio.NewWriter(&out)}
	for range 100 {
		if n, err := tail.Write([]byte(strings.Repeat("x", 99) + "\n")); n != 100 || err != nil {
			t.Fatal(n, err)
		}
	}
	if _, err := tail.Write([]byte("the end")); err != nil {
		t.Fatal(err)
	}
	if got := tail.text(); len(got) != maxTail || !strings.HasSuffix(got, "x\nthe end") {
		t.Errorf("%d bytes, %q", len(got), got[len(got)-20:])
	}
}

func FuzzParseProbe(f *testing.F) {
	f.Add("1.5 1 1\n2\nx")
	f.Fuzz(func(t *testing.T, text string) {
		if p := parseProbe(text); p.ok && !(p.load >= 0) {
			t.Errorf("%q: %+v", text, p)
		}
	})
}
