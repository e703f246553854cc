package controller_test

import (
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ltsp-fleet/ltsp-fleet/controller"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/datadir"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

func initialise(t *testing.T, cfg controller.InitConfig) controller.InitResult {
	t.Helper()
	made, err := controller.Init(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "data")
	made := initialise(t, controller.InitConfig{DataDir: dir, Address: "ltsp.example.org"})
	if made.Controller != "ltsp.example.org:7400" || made.AdminContext != filepath.Join(dir, "admin.yaml") {
		t.Errorf("made %+v", made)
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	checkContext(t, made)
	before := snapshot(t, dir)
	if _, err := controller.Init(t.Context(), controller.InitConfig{DataDir: dir}); !errors.Is(err, datadir.ErrInitialised) {
		t.Errorf("second init: %v, want ErrInitialised", err)
	}
	for path, content := range snapshot(t, dir) {
		if before[path] != content {
			t.Errorf("the second init changed %s", path)
		}
	}
}

func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(content)
	}
	return files
}

// checkContext reads the contexts file as ltspctl does.
func checkContext(t *testing.T, made controller.InitResult) {
	t.Helper()
	text, err := os.ReadFile(made.AdminContext)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Current  string
		Contexts []struct{ Name, Controller, CA, Certificate, Key string }
	}
	if err := yaml.Unmarshal(text, &file); err != nil || len(file.Contexts) != 1 {
		t.Fatalf("contexts file: %v\n%s", err, text)
	}
	c := file.Contexts[0]
	if file.Current != "default" || c.Name != "default" || c.Controller != made.Controller || !strings.Contains(string(text), "certificate: |") {
		t.Errorf("contexts file:\n%s", text)
	}
	pair, err := pki.KeyPair([]byte(c.Certificate), []byte(c.Key))
	if err != nil {
		t.Fatal(err)
	}
	if id, err := pki.FromCertificate(pair.Leaf); err != nil || id.String() != "ltsp://admin/admin" {
		t.Errorf("identity %v, %v", id, err)
	}
	ca, err := pki.ParseCertificate([]byte(c.CA))
	if err != nil || pki.Fingerprint(ca.Raw) != made.Fingerprint {
		t.Fatalf("CA: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
}

// Init that was stopped after any of its files is mended by another one, with the same CA if there was one.
func TestInitAfterInterruption(t *testing.T) {
	whole := t.TempDir()
	initialise(t, controller.InitConfig{DataDir: whole, Address: "h"})
	files := snapshot(t, whole)
	order := []string{"ca.key", "ca.crt", "signing.key", "controller.pem", "admin.yaml"}
	for n := range len(order) + 1 {
		dir := t.TempDir()
		for _, name := range order[:n] {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(files[name]), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		half := filepath.Join(dir, "controller.db.new")
		if err := os.WriteFile(half, []byte(files["controller.db"][:5000]), 0o600); err != nil {
			t.Fatal(err)
		}
		made := initialise(t, controller.InitConfig{DataDir: dir, Address: "h"})
		checkContext(t, made)
		if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after %d files: the half database is still there", n)
		}
		if after := snapshot(t, dir); n >= 2 && after["ca.crt"] != files["ca.crt"] || n >= 3 && after["signing.key"] != files["signing.key"] {
			t.Errorf("after %d files: keys were made anew", n)
		}
		serve(t, controller.Config{DataDir: dir})
	}
}

// A damaged key is a reason to stop, not to make a new CA behind the admin's back.
func TestInitKeepsHandsOffDamage(t *testing.T) {
	for _, name := range []string{"ca.crt", "signing.key"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := controller.Init(t.Context(), controller.InitConfig{DataDir: dir}); err == nil {
			t.Errorf("init over a damaged %s", name)
		}
	}
}

func TestInitAdminContext(t *testing.T) {
	taken := filepath.Join(t.TempDir(), "contexts.yaml")
	if err := os.WriteFile(taken, []byte("current: mine\ncontexts: [{name: mine}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := controller.Init(t.Context(), controller.InitConfig{DataDir: dir, AdminContext: taken}); err == nil {
		t.Error("somebody's contexts file was overwritten")
	}
	fresh := filepath.Join(t.TempDir(), "config", "ltspctl", "contexts.yaml")
	made := initialise(t, controller.InitConfig{DataDir: dir, AdminContext: fresh, Address: "[2001:db8::1]:8000"})
	if made.AdminContext != fresh || made.Controller != "[2001:db8::1]:8000" {
		t.Errorf("made %+v", made)
	}
	checkContext(t, made)
	for _, bad := range []string{"a:b:c", "host:0", "host:99999", ":7400", "host:name"} {
		if made, err := controller.Init(t.Context(), controller.InitConfig{DataDir: t.TempDir(), Address: bad}); err == nil {
			t.Errorf("address %q was taken as %q", bad, made.Controller)
		}
	}
	if _, err := controller.Init(t.Context(), controller.InitConfig{DataDir: t.TempDir(), AdminName: "Not Good"}); err == nil {
		t.Error("bad admin name was taken")
	}
}

// serve starts a controller and stops it again.
func serve(t *testing.T, cfg controller.Config) {
	t.Helper()
	cfg.Listen = "127.0.0.1:0"
	c, err := controller.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
}

func TestNew(t *testing.T) {
	if _, err := controller.New(t.Context(), controller.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0"}); !errors.Is(err, datadir.ErrNotInitialised) {
		t.Errorf("without init: %v", err)
	}
	dir := t.TempDir()
	initialise(t, controller.InitConfig{DataDir: dir})
	c, err := controller.New(t.Context(), controller.Config{DataDir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := controller.New(t.Context(), controller.Config{DataDir: dir, Listen: "127.0.0.1:0"}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("two at once: %v, want ErrLocked", err)
	}
	if _, err := controller.New(t.Context(), controller.Config{DataDir: dir}); err == nil {
		t.Error("no address was taken")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	serve(t, controller.Config{DataDir: dir})
}

// The controller's certificate is renewed at two thirds of its life, and one that is gone or damaged is made anew.
func TestOwnCertificate(t *testing.T) {
	dir := t.TempDir()
	start := time.Now()
	initialise(t, controller.InitConfig{DataDir: dir})
	file := filepath.Join(dir, "controller.pem")
	read := func() string {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	first := read()
	serve(t, controller.Config{DataDir: dir, Now: func() time.Time { return start.Add(50 * 24 * time.Hour) }})
	if read() != first {
		t.Error("renewed too early")
	}
	serve(t, controller.Config{DataDir: dir, Now: func() time.Time { return start.Add(70 * 24 * time.Hour) }})
	second := read()
	if second == first {
		t.Error("not renewed")
	}
	if err := os.WriteFile(file, []byte(second[:300]), 0o600); err != nil {
		t.Fatal(err)
	}
	serve(t, controller.Config{DataDir: dir})
	if third := read(); third == second || strings.Count(third, "BEGIN CERTIFICATE") != 2 {
		t.Error("a damaged certificate was not made anew, or without the CA's")
	}
}

// The last credential is lost: a new one is made while the controller is stopped.
func TestAdminsOffline(t *testing.T) {
	dir := t.TempDir()
	initialise(t, controller.InitConfig{DataDir: dir})
	file := filepath.Join(t.TempDir(), "contexts.yaml")
	cfg := controller.AdminConfig{DataDir: dir, Name: "admin", Address: "h", Context: file}
	made, err := controller.AddAdmin(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	checkContext(t, made)
	if err := controller.RevokeAdmin(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	cfg.Context = file + "2"
	if _, err := controller.AddAdmin(t.Context(), cfg); !errors.Is(err, fleet.ErrState) {
		t.Errorf("credential for a revoked admin: %v", err)
	}
	cfg.Name = "nobody"
	if err := controller.RevokeAdmin(t.Context(), cfg); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("revoke nobody: %v", err)
	}
	c, err := controller.New(t.Context(), controller.Config{DataDir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := controller.AddAdmin(t.Context(), cfg); !errors.Is(err, store.ErrLocked) {
		t.Errorf("while the controller runs: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
