package remoteapp_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/remoteapp"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want remoteapp.App
	}{
		"nothing": {"", remoteapp.App{}},
		"all": {"# the suite\n\nName=Office \\ Suite\nComment=\"Write\"\nExec=/opt/office/run --new\nIcon=office\nCategories=Office;\n" +
			"Hosts=app1, app2:2222 [fd00::1]:23 fd00::2\nTrusted=1\n",
			remoteapp.App{Title: `Office \ Suite`, Comment: "Write", Exec: "/opt/office/run --new", Icon: "office", Categories: "Office;",
				Hosts: []remoteapp.Host{{Name: "app1"}, {Name: "app2", Port: 2222}, {Name: "fd00::1", Port: 23}, {Name: "fd00::2"}}, Trusted: new(true)}},
		"blanks, carriage returns and no last line end": {" \t# x\r\n  Exec = a=b \r\nTrusted=false", remoteapp.App{Exec: "a=b", Trusted: new(false)}},
		"the last counts":       {"Exec=a\nExec=b\n", remoteapp.App{Exec: "b"}},
		"one pair of quotes":    {"Exec='\"a b\"'\nComment=\"\nIcon='x\"\n", remoteapp.App{Exec: `"a b"`, Comment: `"`, Icon: `'x"`}},
		"keys without a value":  {"Comment=\nIcon=''\nHosts=\n", remoteapp.App{}},
		"a colon without port":  {"Hosts=app1: [app2]:\n", remoteapp.App{Hosts: []remoteapp.Host{{Name: "app1"}, {Name: "app2"}}}},
		"a comment is no value": {"Exec=a # b\n", remoteapp.App{Exec: "a # b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := remoteapp.Parse([]byte(c.text))
			if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
				t.Errorf("error %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, says string }{
		"an unknown key":       {"Exec=a\nColour=red\n", `line 2: unknown key "Colour"`},
		"another case":         {"exec=a\n", "unknown key"},
		"no assignment":        {"\nwords\n", "line 2: want KEY=VALUE"},
		"no program":           {"Exec=\n", "Exec is empty"},
		"no title":             {"Name=''\n", "Name is empty"},
		"an option as host":    {"Hosts=-oProxyCommand=reboot\n", "not a host name"},
		"a user in the host":   {"Hosts=root@a\n", "not a host name"},
		"a zone":               {"Hosts=fe80::1%eth0\n", "not a host name"},
		"port 0":               {"Hosts=a:0\n", "is no port"},
		"a large port":         {"Hosts=a:65536\n", "is no port"},
		"half an address":      {"Hosts=[fd00::1\n", "want NAME"},
		"words behind it":      {"Hosts=[fd00::1]x\n", "want NAME"},
		"too many hosts":       {"Hosts=" + strings.Repeat("a ", 17) + "\n", "17 hosts"},
		"a control character":  {"Name=a\x1b[31m\n", "control"},
		"a null byte":          {"Hosts=a\x00\n", "control"},
		"a file without end":   {strings.Repeat("#\n", 16<<10), "at most 16384"},
		"a value without end":  {"Exec=" + strings.Repeat("a", 513) + "\n", "at most 512"},
		"neither true nor not": {"Trusted=maybe\n", "line 1: Trusted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := remoteapp.Parse([]byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v, error %v does not say %q", got, err, c.says)
			}
		})
	}
}

func TestEncode(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		app  remoteapp.App
		want string
	}{
		"nothing": {remoteapp.App{}, ""},
		"all": {remoteapp.App{Title: "Gimp", Comment: "Paint", Exec: "gimp --no-splash", Icon: "gimp", Categories: "Graphics;",
			Hosts: []remoteapp.Host{{Name: "apps1"}, {Name: "apps2", Port: 2222}, {Name: "fd00::1", Port: 22}, {Name: "fd00::2"}}, Trusted: new(true)},
			"Name=Gimp\nComment=Paint\nExec=gimp --no-splash\nIcon=gimp\nCategories=Graphics;\nHosts=apps1 apps2:2222 [fd00::1]:22 fd00::2\nTrusted=true\n"},
		"not trusted": {remoteapp.App{Trusted: new(false)}, "Trusted=false\n"},
		"ends that a reader would take off": {remoteapp.App{Title: " x ", Comment: `"`, Exec: `"a b" 'c'`, Icon: "x\u00a0"},
			"Name=\" x \"\nComment=\"\"\"\nExec=\"\"a b\" 'c'\"\nIcon=\"x\u00a0\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := c.app.Encode()
			if diff := cmp.Diff(c.want, string(got)); diff != "" || err != nil {
				t.Fatalf("error %v (-want +got):\n%s", err, diff)
			}
			back, err := remoteapp.Parse(got)
			if diff := cmp.Diff(c.app, back); diff != "" || err != nil {
				t.Errorf("read again: error %v (-want +got):\n%s", err, diff)
			}
		})
	}
	for name, app := range map[string]remoteapp.App{
		"a line end":          {Exec: "a\nHosts=evil"},
		"a long value":        {Comment: strings.Repeat("c", 513)},
		"an option as host":   {Hosts: []remoteapp.Host{{Name: "-x"}}},
		"two hosts in one":    {Hosts: []remoteapp.Host{{Name: "a -x"}}},
		"hosts without end":   {Hosts: []remoteapp.Host{{Name: strings.Repeat("a", 250)}, {Name: strings.Repeat("b", 250)}, {Name: strings.Repeat("c", 250)}}},
		"more hosts than fit": {Hosts: make([]remoteapp.Host, 17)},
	} {
		if text, err := app.Encode(); err == nil {
			t.Errorf("%s: %q", name, text)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "users-admin", "7zFM", "libreoffice7.4", "g++", "x_y", strings.Repeat("a", 64)} {
		if err := remoteapp.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if got, ok := remoteapp.NameOf(remoteapp.Path(name)); got != name || !ok {
			t.Errorf("the file of %q is that of %q, %v", name, got, ok)
		}
	}
	for _, name := range []string{"", ".", "-x", "../x", "a/b", "a b", "$(reboot)", "é", strings.Repeat("a", 65), "ssh", "sh"} {
		if remoteapp.CheckName(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
	for _, path := range []string{"remoteapps.d/notes.txt", "remoteapps.d/sub/x.conf", "x.conf", "a/remoteapps.d/x.conf"} {
		if name, ok := remoteapp.NameOf(path); ok {
			t.Errorf("%s is the file of %q", path, name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("Name=\"\nHosts=[::1]:22,a\nExec='"))
	f.Add([]byte("# x\n Comment = ' \" '\nIcon=\u0085x\nCategories=\xa0;\nHosts=a: fd00::1\tb:022\nTrusted=T"))
	f.Fuzz(func(t *testing.T, text []byte) {
		app, err := remoteapp.Parse(text)
		if err != nil {
			return
		}
		for _, h := range app.Hosts {
			if h.Name == "" || h.Name[0] == '-' || strings.ContainsAny(h.Name, "@/%[] ") {
				t.Errorf("%q gave host %q", text, h.Name)
			}
		}
		again, err := app.Encode()
		if err != nil {
			t.Fatalf("%q gave %+v: %v", text, app, err)
		}
		if strings.ContainsAny(string(again), "\x00\x1b\r") {
			t.Errorf("%q gave %q", text, again)
		}
		back, err := remoteapp.Parse(again)
		if diff := cmp.Diff(app, back); diff != "" || err != nil {
			t.Errorf("%q was written as %q: error %v\n%s", text, again, err, diff)
		}
	})
}
