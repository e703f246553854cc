//go:build component

package bootfiles

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/task"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/bootmenu"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/clients"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/tftp"
)

// TestMain lets the test binary stand in for a satellite inside a network namespace, where the TFTP server makes sockets at any time.
func TestMain(m *testing.M) {
	if name := os.Getenv("BOOTFILES_SATELLITE"); name != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := satellite(ctx, name, os.Getenv("BOOTFILES_DIR"), os.Getenv("BOOTFILES_TFTP_ONLY") != ""); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// satellite serves DIR/ID/ARTIFACT. The lab image counts as verified as soon as DIR/verified exists.
func satellite(ctx context.Context, name, dir string, tftpOnly bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	registry, err := clients.New(clients.Config{Logger: log})
	if err != nil {
		return err
	}
	tree, err := NewTree(TreeConfig{Store: &dirStore{root: root}, Registry: registry, Logger: log})
	if err != nil {
		return err
	}
	web, err := NewServer(Config{Tree: tree, Logger: log, Clients: registry.Counts})
	if err != nil {
		return err
	}
	files, err := tftp.New(tftp.Config{Logger: log, Open: func(name string, client, local netip.Addr) (tftp.File, error) {
		f, err := tree.Open(Request{Name: name, TFTP: true, Client: client, Local: local})
		if err != nil {
			return nil, err
		}
		return f, nil
	}})
	if err != nil {
		return err
	}
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 69})
	if err != nil {
		return err
	}
	tasks := []task.Task{
		{Name: "tftp", Run: func(ctx context.Context) error { return files.Serve(ctx, udp) }},
		{Name: "menu", Run: func(ctx context.Context) error { return watchMenu(ctx, tree, root, name) }},
	}
	if !tftpOnly {
		tcp, err := net.Listen("tcp4", ":80")
		if err != nil {
			return err
		}
		tasks = append(tasks, task.Task{Name: "http", Run: func(ctx context.Context) error { return web.Serve(ctx, tcp) }})
	}
	return task.Run(ctx, log, tasks...)
}

// watchMenu makes a menu each time that DIR/verified comes or goes.
func watchMenu(ctx context.Context, tree *Tree, root *os.Root, name string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := root.Stat("verified")
		m, err := componentMenu(name, err == nil)
		if err != nil {
			return err
		}
		tree.SetMenu(m)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func componentMenu(name string, verified bool) (*bootmenu.Menu, error) {
	lab := labVersion()
	lab.Verified, lab.BytesDone, lab.BytesTotal = verified, 312e6, 745e6
	state := bootmenu.State{
		Desired: &config.Desired{
			Revision: 3, Site: "school", Boot: config.Policy{Boot: "lab:stable", KernelParameters: "console=ttyS0 panic=30"},
			Versions: []config.Version{{Image: "lab", Number: 7, ID: labID, Kind: manifest.Image, Channels: []string{"stable"}}},
			Subnets:  []config.Subnet{{Name: "room", CIDR: netip.MustParsePrefix("192.168.67.0/24")}},
			Clients:  []config.Client{{MAC: pc01, Name: "pc01"}},
			Peers: []config.Peer{
				{Name: "a1", Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.67.1/24")}},
				{Name: "a2", Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.67.2/24")}},
			},
		},
		Satellite: name, TrustAnchor: "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
		Versions: []bootmenu.Version{lab, {
			Image: "bootloaders", Number: 1, ID: loaderID, Kind: manifest.Bootloaders, Verified: true, Artifacts: []string{"undionly.kpxe", "snponly.efi"},
		}},
	}
	if os.Getenv("BOOTFILES_MENU") != "" {
		office := labVersion()
		office.Image, office.Number, office.ID, office.Digest = "office", 2, officeID, [32]byte{2}
		state.Versions = append(state.Versions, office)
		state.Desired.Versions = append(state.Desired.Versions, config.Version{Image: "office", Number: 2, ID: officeID, Kind: manifest.Image, Channels: []string{"stable"}})
		forever := 0
		state.Conf = func(string, netip.Addr) bootmenu.Conf {
			return bootmenu.Conf{MenuTimeout: &forever, Titles: map[string]string{"OFFICE": "The image of the office"}}
		}
	}
	return bootmenu.New(state)
}

// officeID is the image that TestMenu picks.
var officeID = manifest.ID{0xaf, 31: 2}

// box is a satellite in the lab with its directory and log.
type box struct {
	*testnet.Host
	dir, log string
}

// write puts a file below the satellite's directory; a nil content removes it.
func (b *box) write(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join(b.dir, name)
	if data == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (b *box) waitForLog(t *testing.T, text string) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%q in the log of %s", text, b.Name), func() bool {
		log, err := os.ReadFile(b.log)
		return err == nil && bytes.Contains(log, []byte(text))
	})
}

// newBox starts a satellite on a bridge.
func newBox(t *testing.T, lab *testnet.Lab, lan *testnet.Bridge, name, addr string, env ...string) *box {
	t.Helper()
	host, err := lab.Host(name, lan.At(addr))
	if err != nil {
		t.Fatal(err)
	}
	b := &box{Host: host, dir: t.TempDir(), log: filepath.Join(t.TempDir(), "log")}
	b.write(t, loaderID.String()+"/undionly.kpxe", []byte("BIOS loader"))
	_, err = host.Start(t.Context(), testnet.Proc{
		Path: os.Args[0], Env: append(env, "BOOTFILES_SATELLITE="+name, "BOOTFILES_DIR="+b.dir), LogFile: b.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(b.log)
			t.Logf("log of %s:\n%s", name, log)
		}
	})
	b.waitForLog(t, "task=tftp")
	return b
}

func newNet(t *testing.T) (*testnet.Lab, *testnet.Bridge) {
	t.Helper()
	lab, err := testnet.New(t.Context(), testnet.Config{Prefix: "se", Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	lan, err := lab.Bridge("lan")
	if err != nil {
		t.Fatal(err)
	}
	return lab, lan
}

// TestStockClients asks with other people's programs.
func TestStockClients(t *testing.T) {
	lab, lan := newNet(t)
	sat := newBox(t, lab, lan, "a1", "192.168.67.1/24")
	initrd := bytes.Repeat([]byte("0123456789abcdef"), 3<<20/16)
	sat.write(t, labID.String()+"/kernel", []byte("the kernel"))
	sat.write(t, labID.String()+"/initrd-full", initrd)
	sat.write(t, "verified", []byte{})
	pc, err := lab.Host("pc", lan.At("192.168.67.20/24"))
	if err != nil {
		t.Fatal(err)
	}
	run := func(path string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := pc.Output(ctx, path, args...)
		if err != nil {
			out = append(out, err.Error()...)
		}
		return string(out)
	}
	const base = "http://192.168.67.1"
	// The boot loaders are verified from the start.
	waitFor(t, "the verified version", func() bool { return strings.Count(run("curl", "-s", base+"/status"), `"verified": true`) == 2 })

	got := filepath.Join(t.TempDir(), "got")
	same := func(what string, want []byte) {
		t.Helper()
		data, err := os.ReadFile(got)
		if err != nil || sha256.Sum256(data) != sha256.Sum256(want) {
			t.Errorf("%s: %d bytes, %v, want %d", what, len(data), err, len(want))
		}
		_ = os.Remove(got) // the next may make it anew
	}
	file := base + "/boot/v/" + labID.String() + "/initrd-full"
	run("curl", "-sSf", "-o", got, file)
	same("curl", initrd)
	run("curl", "-sSf", "-o", got, "-r", "1000-2999", file)
	same("curl with a range", initrd[1000:3000])
	if err := os.WriteFile(got, initrd[:1<<20], 0o644); err != nil {
		t.Fatal(err)
	}
	run("curl", "-sSf", "-o", got, "-C", "-", file)
	same("curl that resumes", initrd)
	etag := filepath.Join(t.TempDir(), "etag")
	run("curl", "-sSf", "-o", got, "--etag-save", etag, file)
	if out := run("curl", "-s", "-o", got, "--etag-compare", etag, "-w", "%{http_code} %{size_download}", file); out != "304 0" {
		t.Errorf("curl with the file's tag: %s", out)
	}
	if out := run("curl", "-sI", file); !strings.Contains(out, "200 OK") || !strings.Contains(out, "Content-Length: 3145728") {
		t.Errorf("curl HEAD:\n%s", out)
	}
	if out := run("curl", "-s", "--path-as-is", "-w", " %{http_code} %{num_redirects}", base+"/boot//loader//undionly.kpxe"); out != "BIOS loader 200 0" {
		t.Errorf("curl with doubled slashes: %s", out)
	}
	if out := run("curl", "-s", "--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", base+"/boot/../../etc/passwd"); out != "404" {
		t.Errorf("curl out of the tree: %s", out)
	}
	if out := run("curl", "-s", base+"/boot.ipxe?mac="+pc01); !strings.Contains(out, "for pc01") {
		t.Errorf("script:\n%s", out)
	}

	_ = os.Remove(got) // left from the 304
	run("tftp", "-m", "binary", "192.168.67.1", "-c", "get", "ltsp/lab/initrd.img", got)
	same("tftp-hpa", initrd)
	run("atftp", "--option", "blksize 1428", "--option", "tsize 0", "-g", "-r", "/ltsp/lab/initrd.img", "-l", got, "192.168.67.1")
	same("atftp with blksize", initrd)
	run("curl", "-sS", "-o", got, "tftp://192.168.67.1/undionly.kpxe")
	same("curl by TFTP", []byte("BIOS loader"))
	if out := run("tftp", "-m", "binary", "192.168.67.1", "-c", "get", "../../etc/passwd", got); !strings.Contains(out, "file not found") || strings.Contains(out, sat.dir) {
		t.Errorf("tftp-hpa out of the tree: %s", out)
	}
	if out := run("tftp", "-m", "binary", "192.168.67.1", "-c", "put", "/etc/hostname", "undionly.kpxe"); !strings.Contains(out, "Error code 2: access violation") {
		t.Errorf("tftp-hpa put: %s", out)
	}
	log, err := os.ReadFile(sat.log)
	if err != nil || bytes.Contains(log, []byte("level=ERROR")) || bytes.Contains(log, []byte("level=WARN")) {
		t.Errorf("strangers' requests are no events, %v:\n%s", err, log)
	}
}

// TestClassroomInNamespaces lets 200 connections of 20 hosts fetch the same 10 MB.
func TestClassroomInNamespaces(t *testing.T) {
	lab, lan := newNet(t)
	sat := newBox(t, lab, lan, "a1", "192.168.67.1/24")
	initrd := bytes.Repeat([]byte("0123456789abcdef"), 10<<20/16)
	sat.write(t, labID.String()+"/kernel", []byte("the kernel"))
	sat.write(t, labID.String()+"/initrd-full", initrd)
	sat.write(t, "verified", []byte{})
	want := fmt.Sprintf("%x", sha256.Sum256(initrd))
	var wg sync.WaitGroup
	for h := range 20 {
		host, err := lab.Host(fmt.Sprintf("pc%d", h), lan.At(fmt.Sprintf("192.168.67.%d/24", 20+h)))
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			out, err := host.Output(ctx, "sh", "-c", `for i in 0 1 2 3 4 5 6 7 8 9; do curl -sSf http://192.168.67.1/ltsp/lab/initrd.img | sha256sum & done; wait`)
			if n := strings.Count(string(out), want); err != nil || n != 10 {
				t.Errorf("%s: %d of 10 are right, %v:\n%s", host.Name, n, err, out)
			}
		})
	}
	wg.Wait()
}
