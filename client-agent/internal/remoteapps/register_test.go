package remoteapps

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// newRoot returns a root directory with files in it.
func newRoot(t *testing.T, files map[string]string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	for name, text := range files {
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := root.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func register(t *testing.T, root *os.Root, s Settings) Report {
	t.Helper()
	report, err := Register(root, s)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func text(t *testing.T, root *os.Root, name string) string {
	t.Helper()
	text, err := root.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

func TestRegister(t *testing.T) {
	t.Parallel()
	root := newRoot(t, map[string]string{Dir + "/office.conf": "# the suite\nName=Office \\ Suite\nComment=\"Write\"\nExec=/opt/office/run --new\nIcon=office\n" +
		"Categories=Office;\nHosts=app1, app2:2222 [fd00::1]:23\nTrusted=1\n"})
	report := register(t, root, Settings{Words: " users-admin  xeyes xeyes", Server: "192.168.67.1"})
	if diff := cmp.Diff(Report{Made: []string{"office", "users-admin", "xeyes"}}, report); diff != "" {
		t.Error(diff)
	}
	const desktop = "[Desktop Entry]\nType=Application\nVersion=1.0\nName=Office \\\\ Suite\nComment=Write\nIcon=office\nCategories=Office;\n" +
		"Exec=/usr/local/bin/office %U\nTerminal=false\nX-LTSP-RemoteApp=true\n"
	if diff := cmp.Diff(desktop, text(t, root, "usr/share/applications/office.desktop")); diff != "" {
		t.Error(diff)
	}
	if got := text(t, root, "usr/local/bin/xeyes"); !strings.HasSuffix(got, "\nexec /run/ltsp/agent remoteapp 'xeyes' \"$@\"\n") {
		t.Errorf("wrapper %q", got)
	}
	if info, err := root.Stat("usr/local/bin/xeyes"); err != nil || info.Mode() != 0o755 {
		t.Errorf("wrapper: %v, %v", info, err)
	}
	app, err := Find(root.FS(), "office")
	want := App{Name: "office", Exec: "/opt/office/run --new", Title: `Office \ Suite`, Comment: "Write", Icon: "office", Categories: "Office;",
		Hosts: []Host{{Name: "app1"}, {Name: "app2", Port: 2222}, {Name: "fd00::1", Port: 23}}, Trusted: true}
	if diff := cmp.Diff(want, app); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if again := register(t, root, Settings{Words: "xeyes users-admin", Server: "192.168.67.1"}); again.Made != nil || again.Removed != nil {
		t.Errorf("a second time: %+v", again)
	}
	if diff := cmp.Diff([]string{"users-admin"}, register(t, root, Settings{Words: "xeyes"}).Removed); diff != "" {
		t.Error(diff)
	}
	if _, err := Find(root.FS(), "users-admin"); err == nil {
		t.Error("a removed application is found")
	}
	report, err = Unregister(root)
	if diff := cmp.Diff(Report{Removed: []string{"office", "xeyes"}}, report); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, name := range []string{listPath, "usr/local/bin/xeyes", "usr/share/applications/xeyes.desktop"} {
		if _, err := root.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}

func TestRegisterLeavesTheImageAlone(t *testing.T) {
	t.Parallel()
	image := map[string]string{
		"usr/local/bin/own":                      "#!/bin/sh\necho own\n",
		"usr/share/applications/firefox.desktop": "[Desktop Entry]\nName=Firefox\n",
		"usr/bin/firefox":                        "ELF",
	}
	root := newRoot(t, image)
	if err := root.Symlink("/usr/bin/firefox", "usr/local/bin/link"); err != nil {
		t.Fatal(err)
	}
	if err := root.Symlink("/usr/share/ltsp/client/remoteapps/ltsp-remoteapps", "usr/local/bin/fromltsp"); err != nil {
		t.Fatal(err)
	}
	report := register(t, root, Settings{Words: "own firefox link fromltsp"})
	want := Report{Made: []string{"firefox", "fromltsp", "link", "own"}, Remarks: []string{
		"remote application firefox: the image's own /usr/share/applications/firefox.desktop stays",
		"remote application firefox: the launcher comes before the image's own /usr/bin/firefox",
		"remote application link: the image's own /usr/local/bin/link stays",
		"remote application own: the image's own /usr/local/bin/own stays",
	}}
	if diff := cmp.Diff(want, report); diff != "" {
		t.Error(diff)
	}
	if _, err := Unregister(root); err != nil {
		t.Fatal(err)
	}
	for name, want := range image {
		if got := text(t, root, name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if target, err := root.Readlink("usr/local/bin/link"); err != nil || target != "/usr/bin/firefox" {
		t.Errorf("link: %q, %v", target, err)
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	options := []string{"-p", "2222"}
	for name, c := range map[string]struct {
		settings Settings
		want     []Host
	}{
		"nothing said":    {Settings{}, []Host{{Name: "server"}}},
		"SERVER":          {Settings{Server: "10.0.0.1"}, []Host{{Name: "10.0.0.1"}}},
		"SSH_SERVER wins": {Settings{Server: "10.0.0.1", SSHServer: "login", SSHOptions: options}, []Host{{Name: "login", Options: options}}},
		"REMOTEAPPS_SERVER wins": {Settings{Server: "10.0.0.1", SSHServer: "login", SSHOptions: options, Servers: "a b:1"},
			[]Host{{Name: "a"}, {Name: "b", Port: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := c.settings.hosts()
			if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
				t.Error(diff, err)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	root := func(conf string) fs.FS {
		return fstest.MapFS{Dir + "/x.conf": &fstest.MapFile{Data: []byte(conf)}, Dir + "/notes.txt": &fstest.MapFile{Data: []byte("words")}}
	}
	for name, c := range map[string]struct {
		conf     string
		settings Settings
		want     App
	}{
		"nothing said":       {"", Settings{}, App{Name: "x", Exec: "x", Title: "x", Hosts: []Host{{Name: "server"}}}},
		"trusted for all":    {"Exec=y\n", Settings{Trusted: true}, App{Name: "x", Exec: "y", Title: "x", Hosts: []Host{{Name: "server"}}, Trusted: true}},
		"trusted but not it": {"Trusted=0\nHosts=a\n", Settings{Trusted: true, Servers: "b"}, App{Name: "x", Exec: "x", Title: "x", Hosts: []Host{{Name: "a"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			apps, remarks := Load(root(c.conf), c.settings)
			if diff := cmp.Diff([]App{c.want}, apps); diff != "" || remarks != nil {
				t.Errorf("remarks %q (-want +got):\n%s", remarks, diff)
			}
		})
	}
	for name, c := range map[string]struct {
		conf     string
		settings Settings
	}{
		"a file that can't be read": {"Host=a\n", Settings{}},
		"no servers but a comma":    {"", Settings{Servers: ","}},
		"a blank for a server":      {"", Settings{SSHServer: " "}},
		"an option for a server":    {"", Settings{Server: "-x"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if apps, remarks := Load(root(c.conf), c.settings); len(apps) != 0 || len(remarks) != 1 || !strings.HasPrefix(remarks[0], "remote application x: ") {
				t.Errorf("%+v, %q", apps, remarks)
			}
		})
	}
	apps, remarks := Load(fstest.MapFS{}, Settings{Words: "../../etc/passwd -x a/b good $(reboot) ssh"})
	if len(apps) != 1 || len(remarks) != 5 {
		t.Errorf("%+v, %q", apps, remarks)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("Name=\"\nHosts=[::1]:22,a\nExec='"), "a,b:1")
	f.Add([]byte("Comment=\\n;\nCategories=A;B"), " ")
	f.Fuzz(func(t *testing.T, conf []byte, servers string) {
		apps, remarks := Load(fstest.MapFS{Dir + "/x.conf": &fstest.MapFile{Data: conf}}, Settings{Servers: servers})
		if len(apps)+len(remarks) != 1 {
			t.Fatalf("%q gave %+v and %q", conf, apps, remarks)
		}
		for _, app := range apps {
			if app.Exec == "" || app.Title == "" || len(app.Hosts) == 0 {
				t.Errorf("%q gave %+v", conf, app)
			}
			entry := desktop(app)
			if len(entry) > maxLauncher || strings.ContainsAny(entry, "\x00\x1b") || strings.Count(entry, "\nExec=") != 1 {
				t.Errorf("%q gave %q", conf, entry)
			}
		}
	})
}
