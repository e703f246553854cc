package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	tree "github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

func file(path, content string) tree.File {
	return tree.File{Path: path, Kind: tree.Regular, Mode: 0o644, Content: []byte(content)}
}

func script(path, content string) tree.File {
	return tree.File{Path: path, Kind: tree.Regular, Mode: 0o755, Content: []byte(content)}
}

func link(path, target string) tree.File {
	return tree.File{Path: path, Kind: tree.Symlink, Content: []byte(target)}
}

func dir(path string, mode uint16) tree.File {
	return tree.File{Path: path, Kind: tree.Dir, Mode: mode}
}

// satellite has a state and what it names, and counts what is fetched.
type satellite struct {
	t       *testing.T
	state   agentproto.PolicyState
	blobs   map[string][]byte
	fetched []string
	fail    map[string]error // by name
}

func newSatellite(t *testing.T) *satellite {
	return &satellite{t: t, state: agentproto.PolicyState{Version: 1}, blobs: map[string][]byte{}, fail: map[string]error{}}
}

func (s *satellite) add(data []byte) agentproto.Blob {
	sum := agentproto.Digest(data)
	s.blobs[sum] = data
	return agentproto.Blob{Size: uint64(len(data)), SHA256: sum}
}

// layer sets a level's tree.
func (s *satellite) layer(scope string, files ...tree.File) agentproto.Blob {
	s.t.Helper()
	tr := tree.Tree(files)
	tr.Sort()
	archive, err := tr.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	l := agentproto.PolicyLayer{Scope: scope, Number: 1, Blob: s.add(archive)}
	if i := slices.IndexFunc(s.state.Layers, func(l agentproto.PolicyLayer) bool { return l.Scope == scope }); i >= 0 {
		l.Number = s.state.Layers[i].Number + 1
		s.state.Layers[i] = l
	} else {
		s.state.Layers = append(s.state.Layers, l)
	}
	return l.Blob
}

func (s *satellite) users(passwd, group string) {
	blob := s.add(fmt.Appendf(nil, `{"passwd":%q,"group":%q}`, passwd, group))
	s.state.Users = &blob
}

// Fetch is Source's.
func (s *satellite) Fetch(_ context.Context, name string, limit uint64, w io.Writer) (agentproto.Blob, error) {
	s.fetched = append(s.fetched, name)
	data, ok := s.blobs[name]
	if name == agentproto.PolicyName {
		var err error
		if data, _, err = s.state.Encode(); err != nil {
			s.t.Fatal(err)
		}
		ok = true
	}
	if err := s.fail[name]; err != nil || !ok {
		_, _ = w.Write(data[:len(data)/2])
		return agentproto.Blob{}, errors.Join(err, errors.New("refused"))
	}
	if uint64(len(data)) > limit {
		return agentproto.Blob{}, fmt.Errorf("%d bytes, limit %d", len(data), limit)
	}
	_, err := w.Write(data)
	return agentproto.Blob{Size: uint64(len(data)), SHA256: agentproto.Digest(data)}, err
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func listing(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestStore(t *testing.T) {
	t.Parallel()
	sat, where := newSatellite(t), filepath.Join(t.TempDir(), "policy")
	s := open(t, where)
	if _, err := s.Current(); !errors.Is(err, ErrNone) {
		t.Errorf("current of an empty store: %v", err)
	}
	org := sat.layer("organisation", file("ltsp.conf", "A=1\n"), file("x", "org"))
	room := sat.layer("room/a/1", file("ltsp.conf", "A=2"))
	sat.users("anna:x:1000:1000::/home/anna:/bin/sh\n", "anna:x:1000:\n")
	first, err := s.Fetch(t.Context(), sat)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Current(); !errors.Is(err, ErrNone) {
		t.Errorf("a state that was only fetched is in force: %v", err)
	}
	if err := s.Activate(first); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{".", first} {
		if info, err := os.Stat(filepath.Join(where, p)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", p, info, err)
		}
	}
	for _, name := range listing(t, filepath.Join(where, first)) {
		if info, err := os.Stat(filepath.Join(where, first, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}

	sat.fetched = nil
	changed := sat.layer("room/a/1", file("ltsp.conf", "A=3\n"))
	second, err := s.Fetch(t.Context(), sat)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"policy", changed.SHA256}, sat.fetched); diff != "" {
		t.Errorf("fetched again: %s", diff)
	}
	if sum, err := s.Current(); err != nil || sum != first {
		t.Errorf("current is %s, %v", sum, err)
	}
	if err := s.Activate(second); err != nil {
		t.Fatal(err)
	}
	want := []string{second, "current"}
	slices.Sort(want)
	if diff := cmp.Diff(want, listing(t, where)); diff != "" {
		t.Errorf("old states: %s", diff)
	}
	if names := listing(t, filepath.Join(where, "current")); slices.Contains(names, room.SHA256) || !slices.Contains(names, org.SHA256) {
		t.Errorf("files of the state: %v", names)
	}
	state, err := s.Load(second)
	if err != nil {
		t.Fatal(err)
	}
	if string(state.Trees[1].Conf()) != "A=3\n" || state.Accounts == nil || state.Sum != second {
		t.Errorf("loaded %+v", state)
	}

	// The same state once more, in another life: nothing but its text is fetched.
	sat.fetched = nil
	if again, err := open(t, where).Fetch(t.Context(), sat); err != nil || again != second || len(sat.fetched) != 1 {
		t.Errorf("got %s, %v; fetched %v", again, err, sat.fetched)
	}
}

// TestFetchIsWholeOrNothing breaks the fetch at each of its steps, then lets it go well.
func TestFetchIsWholeOrNothing(t *testing.T) {
	t.Parallel()
	where := filepath.Join(t.TempDir(), "policy")
	s := open(t, where)
	sat := newSatellite(t)
	org := sat.layer("organisation", file("a", "1"))
	sat.users("", "")
	damaged := sat.add([]byte("no archive"))
	good := sat.state.Layers[0].Blob
	for name, breaks := range map[string]func(){
		"state":         func() { sat.fail["policy"] = errors.New("away") },
		"layer":         func() { sat.fail[org.SHA256] = errors.New("away") },
		"users":         func() { sat.fail[sat.state.Users.SHA256] = errors.New("away") },
		"size":          func() { sat.state.Layers[0].Size++ },
		"not a tree":    func() { sat.state.Layers[0].Blob = damaged },
		"no users":      func() { sat.state.Users = &damaged },
		"users missing": func() { sat.state.Users = &agentproto.Blob{SHA256: strings.Repeat("0", 64)} },
	} {
		users := *sat.state.Users
		breaks()
		if _, err := s.Fetch(t.Context(), sat); err == nil {
			t.Errorf("%s: no error", name)
		}
		if left := listing(t, where); len(left) != 0 {
			t.Errorf("%s: left over %v", name, left)
		}
		clear(sat.fail)
		sat.state.Layers[0].Blob, sat.state.Users = good, &users
	}
	sum, err := s.Fetch(t.Context(), sat)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Activate("0000"); err == nil {
		t.Error("a state that is not there is in force")
	}
	// What a process that was killed has left does not count.
	for _, name := range []string{"aaaa.tmp", "current.tmp"} {
		if err := os.MkdirAll(filepath.Join(where, name, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	open(t, where)
	if diff := cmp.Diff([]string{sum}, listing(t, where)); diff != "" {
		t.Error(diff)
	}
}

func TestDamagedBlobIsFetchedAgain(t *testing.T) {
	t.Parallel()
	where := filepath.Join(t.TempDir(), "policy")
	s, sat := open(t, where), newSatellite(t)
	org := sat.layer("organisation", file("a", "1"))
	first, err := s.Fetch(t.Context(), sat)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(where, first, org.SHA256), []byte("lost"), 0o600); err != nil {
		t.Fatal(err)
	}
	sat.layer("site/a", file("b", "1"))
	second, err := s.Fetch(t.Context(), sat)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := s.Load(second); err != nil || string(st.Trees[0][0].Content) != "1" {
		t.Errorf("got %+v, %v", st, err)
	}
}

func TestEtc(t *testing.T) {
	t.Parallel()
	state := func() *State {
		return &State{
			PolicyState: agentproto.PolicyState{
				Layers:     []agentproto.PolicyLayer{{Scope: "organisation", Number: 4}, {Scope: "site/a", Number: 2}, {Scope: "room/a/1", Number: 1}},
				KnownHosts: []string{"server ssh-ed25519 A", "10.0.0.1 ssh-ed25519 A"},
			},
			Trees: []tree.Tree{
				{file("bin/x", "1"), file("ltsp.conf", "A=1\n")}, {file("bin/x", "2")}, {file("ltsp-init.conf", "B=1\n"), file("ltsp.conf", "A=2")},
			},
			Accounts: &agentproto.Users{Passwd: "p\n", Group: "g\n"},
		}
	}
	secret := func(path, text string) tree.File {
		return tree.File{Path: path, Kind: tree.Regular, Mode: 0o600, Content: []byte(text)}
	}
	const both = "# organisation, version 4\nA=1\n\n# room/a/1, version 1\nA=2\n"
	want := tree.Tree{
		file("bin/x", "2"), file("group", "g\n"), secret("ltsp-init.conf", "# room/a/1, version 1\nB=1\n"), secret("ltsp.conf", both),
		file("passwd", "p\n"), file("ssh_known_hosts", "server ssh-ed25519 A\n10.0.0.1 ssh-ed25519 A\n"),
	}
	if diff := cmp.Diff(want, state().Etc()); diff != "" {
		t.Error(diff)
	}

	s := state()
	s.Trees[0] = tree.Tree{file("group", "mine\n"), file("ltsp.conf/odd", ""), file("passwd", ""), dir("ssh_known_hosts", 0o755)}
	s.Accounts.Group = "g\n"
	want = tree.Tree{
		file("bin/x", "2"), file("group", "mine\n"), secret("ltsp-init.conf", "# room/a/1, version 1\nB=1\n"), secret("ltsp.conf", "# room/a/1, version 1\nA=2\n"),
		file("passwd", ""), dir("ssh_known_hosts", 0o755),
	}
	if diff := cmp.Diff(want, s.Etc()); diff != "" {
		t.Errorf("the levels' own files: %s", diff)
	}
	if got := (&State{}).Etc(); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestUsers(t *testing.T) {
	t.Parallel()
	host := &agentproto.Users{Passwd: "p\n", Group: "g\n"}
	for name, test := range map[string]struct {
		state State
		want  *agentproto.Users
	}{
		"nothing known":          {State{}, nil},
		"the login host's":       {State{Accounts: host}, host},
		"a level's group":        {State{Accounts: host, Trees: []tree.Tree{{file("group", "mine\n")}}}, &agentproto.Users{Passwd: "p\n", Group: "mine\n"}},
		"a level wants none":     {State{Accounts: host, Trees: []tree.Tree{{file("group", ""), file("passwd", "")}}}, &agentproto.Users{}},
		"the highest level's":    {State{Trees: []tree.Tree{{file("passwd", "1\n")}, {file("passwd", "2\n")}}}, &agentproto.Users{Passwd: "2\n"}},
		"a directory is no file": {State{Accounts: host, Trees: []tree.Tree{{dir("passwd", 0o755)}}}, host},
	} {
		if diff := cmp.Diff(test.want, test.state.Users()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestInstall(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, "etc/ltsp", name))
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	if err := Install(root, tree.Tree{file("old", "1"), file("x", "1")}); err != nil {
		t.Fatal(err)
	}
	files := tree.Tree{
		script("client/init/60-x.sh", "x_main() { :; }\n"), dir("private", 0o700), file("private/f", "1"), file("x", "2"), link("xorg.conf", "client/none"), link("z", "/etc/passwd"),
	}
	if err := Install(root, files); err != nil {
		t.Fatal(err)
	}
	if got := read("x") + read("private/f"); got != "21" {
		t.Errorf("got %q", got)
	}
	for name, mode := range map[string]os.FileMode{".": 0o755, "client": 0o755, "client/init/60-x.sh": 0o755, "private": 0o700, "x": 0o644} {
		if info, err := os.Stat(filepath.Join(root, "etc/ltsp", name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if target, err := os.Readlink(filepath.Join(root, "etc/ltsp/z")); err != nil || target != "/etc/passwd" {
		t.Errorf("link: %s, %v", target, err)
	}
	if diff := cmp.Diff([]string{"ltsp"}, listing(t, filepath.Join(root, "etc"))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"client", "private", "x", "xorg.conf", "z"}, listing(t, filepath.Join(root, "etc/ltsp"))); diff != "" {
		t.Error(diff)
	}
}

// TestInstallOverWhatTheImageHas replaces what may stand in the place of /etc/ltsp.
func TestInstallOverWhatTheImageHas(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "kept"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, prepare := range map[string]func(etc string) error{
		"a link out of the root": func(etc string) error { return os.Symlink(outside, filepath.Join(etc, "ltsp")) },
		"a file":                 func(etc string) error { return os.WriteFile(filepath.Join(etc, "ltsp"), nil, 0o644) },
		"half of an old try":     func(etc string) error { return os.MkdirAll(filepath.Join(etc, newName, "x"), 0o755) },
		"a link as an old try":   func(etc string) error { return os.Symlink(outside, filepath.Join(etc, newName)) },
	} {
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := prepare(filepath.Join(root, "etc")); err != nil {
			t.Fatal(err)
		}
		if err := Install(root, tree.Tree{file("x", "1")}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := listing(t, filepath.Join(root, "etc/ltsp")); !slices.Equal(got, []string{"x"}) {
			t.Errorf("%s: %v", name, got)
		}
		if got := listing(t, outside); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("%s: outside is %v", name, got)
		}
	}
}

// TestInstallHostile writes trees that a checked archive cannot hold.
func TestInstallHostile(t *testing.T) {
	t.Parallel()
	root, outside := t.TempDir(), t.TempDir()
	if err := Install(root, tree.Tree{file("x", "1")}); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string]tree.Tree{
		"dot dot":       {file("../../escaped", "")},
		"absolute":      {file(outside+"/escaped", "")},
		"below a link":  {link("a", outside), file("a/escaped", "")},
		"below a file":  {file("a", ""), file("a/b", "")},
		"dot dot link":  {link("a", "../.."), file("a/escaped", "")},
		"twice, a link": {link("a", outside+"/escaped"), file("a", "")},
	} {
		if err := Install(root, files); err == nil {
			t.Errorf("%s: no error", name)
		}
		if got := listing(t, outside); len(got) != 0 {
			t.Errorf("%s: outside is %v", name, got)
		}
		if got := listing(t, filepath.Join(root, "etc")); !slices.Equal(got, []string{"ltsp"}) {
			t.Errorf("%s: /etc is %v", name, got)
		}
		if b, err := os.ReadFile(filepath.Join(root, "etc/ltsp/x")); err != nil || string(b) != "1" {
			t.Errorf("%s: the files from before: %q, %v", name, b, err)
		}
	}
}

func TestInstallIgnoresUmask(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	root := t.TempDir()
	if err := Install(root, tree.Tree{script("client/x", "")}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".", "client", "client/x"} {
		if info, err := os.Stat(filepath.Join(root, "etc/ltsp", name)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}
