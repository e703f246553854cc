package initrd

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/cmdline"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

func TestFailureMessageFitsALine(t *testing.T) {
	t.Parallel()
	f := &failure{stage: "nbd", advice: "a", err: errors.New(strings.Repeat("\x01", 1<<20))}
	if err := agentproto.NewWriter(io.Discard).Write(agentproto.Message{Failure: f.message()}); err != nil {
		t.Error(err)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	explain(&b, &failure{stage: "network", err: errors.New("network interface eth0 has no link after 30s"), advice: adviceCable})
	want := "\nltsp-agent: boot failed stage=network\n\n" +
		"    what happened:  network interface eth0 has no link after 30s\n" +
		"    what to do:     check the cable and the switch port, then restart the PC\n\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestInitCandidates(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{"": "/sbin/init", "init=/bin/bash": "/bin/bash", "init=bash": "/sbin/init", "init=": "/sbin/init"} {
		b := &boot{args: cmdline.Parse(line)}
		if got := b.initCandidates(); got[0] != want || got[len(got)-1] != "/usr/lib/systemd/systemd" {
			t.Errorf("%q: %v", line, got)
		}
	}
}

func TestRebootWait(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text string
		ok   bool
		want time.Duration
	}{
		{"", false, time.Minute}, {"5", true, 5 * time.Second}, {"0", true, 0}, {"x", true, time.Minute}, {"-1", true, time.Minute}, {"99999", true, time.Hour},
	}
	for _, tt := range tests {
		if got := rebootWait(tt.text, tt.ok); got != tt.want {
			t.Errorf("%q: %v", tt.text, got)
		}
	}
}

func TestCountdown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		begin := time.Now()
		if countdown(&b, 25*time.Second, nil) {
			t.Error("nobody pressed a key")
		}
		if took := time.Since(begin); took != 25*time.Second {
			t.Errorf("took %v", took)
		}
		want := "ltsp-agent: the PC restarts in 25s\nltsp-agent: the PC restarts in 20s\nltsp-agent: the PC restarts in 10s\n"
		if diff := cmp.Diff(want, b.String()); diff != "" {
			t.Error(diff)
		}
		pressed := make(chan struct{})
		time.AfterFunc(12*time.Second, func() { close(pressed) })
		begin = time.Now()
		if !countdown(io.Discard, time.Minute, pressed) || time.Since(begin) != 12*time.Second {
			t.Errorf("key pressed, but it went on for %v", time.Since(begin))
		}
	})
}

func TestShellNeedsPolicy(t *testing.T) {
	t.Parallel()
	for _, b := range []*boot{{}, {cfg: &agentproto.BootConfig{}}} {
		if got := b.findShell(false); got != nil {
			t.Errorf("%+v is offered", got)
		}
	}
	if got := (&boot{cfg: &agentproto.BootConfig{Shell: true}}).findShell(false); got == nil || got.argv[0] != "/bin/sh" {
		t.Errorf("allowed, and this machine has one: %+v", got)
	}
}

func TestRemoveTree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"init", "lib/modules/6.1/kernel/a.ko", "lib/modules/6.1/b.ko"} {
		file = filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := removeTree(fd); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
}

func TestCopyFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.WriteFile(from, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(from, to, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to); err != nil || string(got) != "content" {
		t.Errorf("got %q, %v", got, err)
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm()&0o111 == 0 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := copyFile(from, to, 0o755); !errors.Is(err, os.ErrExist) {
		t.Errorf("overwritten: %v", err)
	}
	if err := copyFile(filepath.Join(dir, "none"), to, 0o755); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
