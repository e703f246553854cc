package home

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/account"
)

const mountinfo = `22 1 0:21 / / rw,relatime - overlay overlay rw,lowerdir=/x
23 22 0:22 / /run rw - tmpfs tmpfs rw
30 22 0:40 / /home/nfs rw,relatime shared:1 - nfs server:/home/nfs rw,vers=3
31 22 0:41 / /home/ann rw,nosuid - fuse.sshfs ann@server: rw,user_id=0
32 22 0:42 / /home/with\040blank rw - fuse.sshfs x@server: rw
33 22 0:43 / /home/twice rw - fuse.sshfs x@server: rw
34 22 0:44 / /home/twice rw - tmpfs tmpfs rw
nonsense
35 22
`

func TestMounts(t *testing.T) {
	t.Parallel()
	mounts := parseMounts([]byte(mountinfo))
	for dir, want := range map[string]struct{ brought, sshfs bool }{
		"/home/ann":        {true, true},
		"/home/anna":       {false, false},
		"/home/bob":        {false, false},
		"/home/nfs/carol":  {true, false},
		"/home/nfs":        {true, false},
		"/home/with blank": {true, true},
		"/home/twice":      {true, false},
		"/run/guest":       {true, false},
	} {
		if got := brought(mounts, dir); got != want.brought {
			t.Errorf("%s brought: %v", dir, got)
		}
		if got := overSSHFS(mounts, dir); got != want.sshfs {
			t.Errorf("%s by sshfs: %v", dir, got)
		}
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		situation
		want action
	}{
		"nothing is mounted":               {situation{processes: 3}, leave},
		"all have gone":                    {situation{mounted: true}, unmount},
		"all have gone, late":              {situation{mounted: true, late: true}, unmount},
		"some are left":                    {situation{mounted: true, processes: 2}, wait},
		"a new login":                      {situation{mounted: true, loggingIn: true}, wait},
		"a new login, late":                {situation{mounted: true, loggingIn: true, late: true}, wait},
		"another session, late":            {situation{mounted: true, processes: 9, sessions: 1, late: true}, leave},
		"processes that nobody ends, late": {situation{mounted: true, processes: 1, late: true}, detach},
		"a session without processes":      {situation{mounted: true, sessions: 1, late: true}, unmount},
	} {
		if got := decide(c.situation); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	proc := t.TempDir()
	add := func(pid int, state string, uid, euid int, cgroup string) {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		status := "Name:\tx\nState:\t" + state + " (x)\nUid:\t" + strconv.Itoa(uid) + "\t" + strconv.Itoa(euid) + "\t0\t0\n"
		for name, text := range map[string]string{"status": status, "cgroup": "0::" + cgroup + "\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(1, "S", 0, 0, "/init.scope")
	add(10, "S", 2001, 2001, "/user.slice/user-2001.slice/user@2001.service/init.scope")
	add(11, "Z", 2001, 2001, "/user.slice/user-2001.slice/session-3.scope")
	add(12, "S", 0, 2001, "/user.slice/user-2001.slice/user@2001.service/app.slice")
	add(13, "S", 2002, 2002, "/user.slice/user-2002.slice/session-4.scope")
	if err := os.Mkdir(filepath.Join(proc, "sys"), 0o755); err != nil {
		t.Fatal(err)
	}
	check := func(uid, all, inSessions int) {
		t.Helper()
		if a, s := processes(proc, uid, true); a != all || s != inSessions {
			t.Errorf("user %d: %d processes, %d tell of sessions; want %d, %d", uid, a, s, all, inSessions)
		}
	}
	check(2001, 2, 1) // the dead one's scope is there yet
	check(2002, 1, 1)
	check(2003, 0, 0)
	add(14, "S", 0, 0, "/user.slice/user-2003.slice/session-5.scope") // a display manager's process
	check(2003, 0, 1)
	add(15, "S", 2004, 2004, "/system.slice/cron.service")
	check(2004, 1, 1)
}

func TestMakeHome(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	skel := filepath.Join(dir, "skel")
	if err := os.MkdirAll(filepath.Join(skel, "sub"), 0o750); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{".profile": 0o644, "sub/run": 0o755, "sub/own": 0o600} {
		if err := os.WriteFile(filepath.Join(skel, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/motd", filepath.Join(skel, "link")); err != nil {
		t.Fatal(err)
	}
	a := account.Account{Name: "ann", UID: os.Getuid(), GID: os.Getgid(), Home: filepath.Join(dir, "homes", "ann")}
	if err := makeHome(a, skel); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{".": fs.ModeDir | 0o755, "sub": fs.ModeDir | 0o750, ".profile": 0o644, "sub/run": 0o755, "sub/own": 0o600, "link": fs.ModeSymlink | 0o777} {
		info, err := os.Lstat(filepath.Join(a.Home, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(a.Home)); err != nil || len(left) != 1 {
		t.Errorf("left over: %v, %v", left, err)
	}
	// A second time, and without skel.
	if err := os.Remove(filepath.Join(a.Home, ".profile")); err != nil {
		t.Fatal(err)
	}
	if err := makeHome(a, skel); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(a.Home, ".profile")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a home that was there was changed")
	}
	a.Home = filepath.Join(dir, "homes", "bob")
	if err := makeHome(a, filepath.Join(dir, "none")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(a.Home); err != nil {
		t.Error(err)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add([]byte(mountinfo), "/home/ann")
	f.Fuzz(func(t *testing.T, text []byte, dir string) {
		mounts := parseMounts(text)
		if overSSHFS(mounts, filepath.Clean(dir)) && filepath.Clean(dir) != "/" && filepath.IsAbs(dir) && !brought(mounts, dir) {
			t.Errorf("%q lies on sshfs, which has not brought it", dir)
		}
	})
}
