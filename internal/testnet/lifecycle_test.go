//go:build component

package testnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the test binary stand in for a program that makes a lab and is killed.
func TestMain(m *testing.M) {
	if os.Getenv("TESTNET_ROLE") == "abandon" {
		abandon()
	}
	os.Exit(m.Run())
}

// abandon makes a lab with a process whose own child escapes the group and the parent's death signal, says so and waits.
func abandon() {
	lab, err := New(context.Background(), Config{Prefix: "tnstale"})
	if err == nil {
		var host *Host
		if host, err = lab.Host("h1"); err == nil {
			_, err = host.Start(context.Background(), Proc{Path: "sh", Args: []string{"-c", "setsid sleep 601 & echo up >&2; wait"}, LogFile: "/dev/stdout"})
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	select {}
}

func TestLabsRunSideBySide(t *testing.T) {
	first, second := newLab(t, "tn"), newLab(t, "tn")
	if first.Label() == second.Label() {
		t.Fatalf("both are %s", first.Label())
	}
	for _, lab := range []*Lab{first, second} {
		lan, err := lab.Bridge("lan")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lab.Host("host", lan.At("10.9.0.1/24")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCloseKillsAndRemoves(t *testing.T) {
	lab := newLab(t, "tn")
	host, err := lab.Host("host")
	if err != nil {
		t.Fatal(err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p, err := host.Start(context.Background(), Proc{Path: "sh", Args: []string{"-c", "setsid sleep 602 & echo up; wait"}, Stdout: in})
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscan(out, new(string)); err != nil {
		t.Fatal(err)
	}
	if err := lab.Close(); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if n, err := out.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a descendant lives: %d, %v", n, err)
	}
	assertNoNamespaces(t, lab.Label())
	if _, err := lab.Bridge("late"); err == nil {
		t.Error("a closed lab takes bridges")
	}
}

func TestStaleLabIsRemoved(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "TESTNET_ROLE=abandon")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said string
	if _, err := fmt.Fscan(out, &said); err != nil || said != "up" {
		t.Fatalf("the other lab says %q, %v", said, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(namespaceDir, "tnstale-h1")); err != nil {
		t.Fatalf("nothing was left behind: %v", err)
	}
	lab := newLab(t, "tnstale")
	if lab.Label() != "tnstale" {
		t.Errorf("label %s", lab.Label())
	}
	if _, err := lab.Host("h1"); err != nil {
		t.Error(err)
	}
	if out, _ := exec.Command("sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'sleep 601'").Output(); strings.TrimSpace(string(out)) != "1" {
		// grep sees its own shell, which has the words in its command line.
		t.Errorf("the process of the dead lab is still there (%s matches)", strings.TrimSpace(string(out)))
	}
}

func assertNoNamespaces(t *testing.T, label string) {
	t.Helper()
	entries, err := os.ReadDir(namespaceDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), label+"-") {
			t.Errorf("namespace %s is left", entry.Name())
		}
	}
}
