package testimage

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const debianStanzas = `# the machine's own mirror
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
# a comment inside
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
`

func allowSource() cmp.Option { return cmp.AllowUnexported(source{}) }

func TestParseDeb822(t *testing.T) {
	keyring := "/usr/share/keyrings/debian-archive-keyring.gpg"
	tests := []struct {
		name, in string
		want     []source
	}{
		{"Debian's own file", debianStanzas, []source{
			{uri: "http://mirror.example/debian", suite: "bookworm", components: []string{"main", "contrib"}, signedBy: keyring},
			{uri: "http://mirror.example/debian", suite: "bookworm-updates", components: []string{"main", "contrib"}, signedBy: keyring},
			{uri: "http://mirror.example/debian-security", suite: "bookworm-security", components: []string{"main"}, signedBy: keyring},
		}},
		{"disabled", "Enabled: no\n" + debianStanzas[strings.Index(debianStanzas, "Types"):strings.Index(debianStanzas, "\n\n")], nil},
		{"only sources", "Types: deb-src\nURIs: http://x/debian\nSuites: s\nComponents: main\n", nil},
		{"flat archive", "Types: deb\nURIs: http://x/\nSuites: ./\n", nil},
		{"continuation, odd case", "types: deb\nURIS:\n http://a/debian\n http://b/debian\nsuites: s\nComponents: main\nTrusted: yes\n", []source{
			{uri: "http://a/debian", suite: "s", components: []string{"main"}, trusted: true},
			{uri: "http://b/debian", suite: "s", components: []string{"main"}, trusted: true},
		}},
		{"inline key", "Types: deb\nURIs: http://x/debian\nSuites: s\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n", []source{
			{uri: "http://x/debian", suite: "s", components: []string{"main"}, key: "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n"},
		}},
		{"no colon", "Types deb\n continued\nURIs: http://x/\n", nil},
		{"empty", "", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, parseDeb822([]byte(test.in)), allowSource()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseList(t *testing.T) {
	tests := []struct {
		name, in string
		want     []source
	}{
		{"plain", "deb http://x/debian bookworm main contrib # why\n", []source{{uri: "http://x/debian", suite: "bookworm", components: []string{"main", "contrib"}}}},
		{"options", "deb [ arch=amd64 signed-by=/k.gpg trusted=yes ] http://x/debian s main\n", []source{{uri: "http://x/debian", suite: "s", components: []string{"main"}, signedBy: "/k.gpg", trusted: true}}},
		{"quoted option, no blank", "deb [signed-by=\"/k.gpg\"] http://x/debian s main", []source{{uri: "http://x/debian", suite: "s", components: []string{"main"}, signedBy: "/k.gpg"}}},
		{"not for us", "# deb http://x/debian s main\ndeb-src http://x/debian s main\ndebx http://x s main\ndeb\n\ndeb cdrom:[Debian GNU/Linux]/ s main\ndeb http://x/ ./ \ndeb http://x/debian s\n", nil},
		{"mirror method", "deb mirror+file:/etc/apt/mirrors.list s main\n", []source{{uri: "mirror+file:/etc/apt/mirrors.list", suite: "s", components: []string{"main"}}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, parseList([]byte(test.in)), allowSource()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// aptDir makes an apt configuration of the given files.
func aptDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDebianSources(t *testing.T) {
	foreign := "deb https://download.example/linux/vendor bookworm main\n"
	tests := []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"deb822 with a foreign archive", map[string]string{"sources.list.d/debian.sources": debianStanzas, "sources.list.d/vendor.list": foreign}, []string{
			"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm main",
			"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm-updates main",
			"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian-security bookworm-security main",
		}},
		{"one-line file with a disabled one beside", map[string]string{
			"sources.list": "deb http://m/debian/ bookworm main non-free\ndeb http://m/debian-security bookworm-security main\n" + foreign, "sources.list.d/x.sources.disabled": debianStanzas,
		}, []string{"deb http://m/debian/ bookworm main", "deb http://m/debian-security bookworm-security main"}},
		{"snapshot", map[string]string{"sources.list": "deb http://s/archive/debian/20250520T000000Z bookworm main\n" + foreign}, []string{"deb http://s/archive/debian/20250520T000000Z bookworm main"}},
		{"mirror with a name of its own", map[string]string{"sources.list": "deb http://cache/deb12 bookworm main\ndeb http://cache/deb12 trixie main\n"}, []string{"deb http://cache/deb12 bookworm main"}},
		{"another release", map[string]string{"sources.list": "deb http://m/debian trixie main\n"}, nil},
		{"only updates", map[string]string{"sources.list": "deb http://m/debian bookworm-updates main\n"}, nil},
		{"nothing", nil, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			sources, err := debianSources(aptDir(t, test.files), "bookworm")
			if (err != nil) != (test.want == nil) {
				t.Fatal(err)
			}
			var got []string
			for _, s := range sources {
				got = append(got, s.listLine(""))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHugeSourcesFileIsRefused(t *testing.T) {
	if _, err := readSources(aptDir(t, map[string]string{"sources.list": strings.Repeat("#", maxSourcesFile+1)})); err == nil {
		t.Error("accepted")
	}
}

func TestWriteSources(t *testing.T) {
	dir := t.TempDir()
	path, err := writeSources(dir, []source{
		{uri: "http://a/debian", suite: "s", components: []string{"main"}},
		{uri: "http://b/debian", suite: "s", components: []string{"main"}, key: "KEY\n", trusted: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "deb http://a/debian s main\ndeb [signed-by=" + dir + "/key1.asc trusted=yes] http://b/debian s main\n"
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "key1.asc")); err != nil || string(got) != "KEY\n" {
		t.Errorf("key %q, %v", got, err)
	}
}

// FuzzSources checks that whatever is read can be written as one line per source and read again.
func FuzzSources(f *testing.F) {
	f.Add([]byte(debianStanzas))
	f.Add([]byte("deb [ signed-by=/k.gpg ] http://x/debian bookworm main # c\ndeb http://y/ z a b\n"))
	f.Add([]byte("Types: deb\nURIs: http://x/\nSuites: s\nComponents: main\nSigned-By:\n -----BEGIN PGP\n .\n x\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, s := range append(parseList(content), parseDeb822(content)...) {
			line := s.listLine("/key")
			if strings.ContainsAny(line, "\n\r") {
				t.Errorf("line break in %q", line)
			}
			if !s.usable() || len(s.components) == 0 {
				t.Errorf("useless source %+v", s)
			}
		}
	})
}
