//go:build component

package controller_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
)

// daemon is the built binary on a data directory.
type daemon struct {
	t      *testing.T
	binary string
	dir    string
	addr   string
	cmd    *exec.Cmd
	log    *os.File
}

func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "ltsp-controller")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/ltsp-controller")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// newDaemon initialises a data directory.
func newDaemon(t *testing.T, binary, dir string) *daemon {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, binary: binary, dir: dir, addr: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if d.log, err = os.Create(filepath.Join(t.TempDir(), "log")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), binary, "init", "--data-dir", dir, "--address", d.addr).CombinedOutput(); err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		d.end(syscall.SIGKILL)
		if t.Failed() {
			text, _ := os.ReadFile(d.log.Name()) // for people only
			t.Logf("log of the controller:\n%s", text)
		}
	})
	return d
}

func (d *daemon) serve() {
	d.t.Helper()
	d.cmd = exec.Command(d.binary, "serve", "--data-dir", d.dir, "--listen", d.addr, "--metrics", "")
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.await("the controller listens", d.listens)
}

func (d *daemon) listens() bool {
	conn, err := net.Dial("tcp", d.addr)
	if err == nil {
		_ = conn.Close() // it was there: that is all we wanted
	}
	return err == nil
}

// await waits until ready, for half a minute at most.
func (d *daemon) await(what string, ready func() bool) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !ready() {
		select {
		case <-ctx.Done():
			d.t.Fatalf("waited in vain: %s", what)
		case <-ticker.C:
		}
	}
}

// end sends a signal and waits for the process to end; it returns its exit code.
func (d *daemon) end(sig syscall.Signal) int {
	d.t.Helper()
	if d.cmd == nil {
		return 0
	}
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Fatal(err)
	}
	_ = d.cmd.Wait() // the exit code says more
	code := d.cmd.ProcessState.ExitCode()
	d.cmd = nil
	return code
}

// admin dials with the credential that init has made.
func (d *daemon) admin() (*grpc.ClientConn, *x509.Certificate) {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, "admin.yaml"))
	if err != nil {
		d.t.Fatal(err)
	}
	var file struct {
		Contexts []struct{ Controller, CA, Certificate, Key string }
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		d.t.Fatal(err)
	}
	c := file.Contexts[0]
	ca, err := pki.ParseCertificate([]byte(c.CA))
	if err != nil {
		d.t.Fatal(err)
	}
	pair, err := pki.KeyPair([]byte(c.Certificate), []byte(c.Key))
	if err != nil {
		d.t.Fatal(err)
	}
	return d.dial(c.Controller, pki.ClientTLS(pki.NewHolder(pair), ca)), ca
}

func (d *daemon) dial(addr string, cfg *tls.Config) *grpc.ClientConn {
	d.t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(32<<20)))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close() }) // only read
	return conn
}

// payload is an image of random bytes.
type payload struct {
	draft  []byte
	m      *manifest.Manifest
	chunks map[chunk.ID][]byte
	order  []chunk.ID
	root   []byte
}

func newPayload(t *testing.T, size int) *payload {
	t.Helper()
	p := &payload{m: &manifest.Manifest{Kind: manifest.Image, Name: "lab", Arch: "amd64", Release: "6.1"}, chunks: map[chunk.ID][]byte{}, root: make([]byte, size)}
	if _, err := rand.Read(p.root); err != nil {
		t.Fatal(err)
	}
	digest, err := verity.Compute(t.Context(), verity.Padded(bytes.NewReader(p.root), int64(size)), verity.PaddedSize(uint64(size)), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.m.Digest = digest
	for name, data := range map[string][]byte{manifest.Squashfs: p.root, manifest.Kernel: p.root[:9999], manifest.InitrdFull: p.root[:777]} {
		a := manifest.Artifact{Name: name, Size: uint64(len(data)), SHA256: sha256.Sum256(data)}
		for len(data) > 0 {
			n := min(len(data), 256<<10)
			id := chunk.Sum(data[:n])
			p.chunks[id] = data[:n]
			p.order = append(p.order, id)
			a.Chunks = append(a.Chunks, chunk.Ref{ID: id, Size: uint32(n)})
			data = data[n:]
		}
		p.m.Artifacts = append(p.m.Artifacts, a)
	}
	if p.draft, err = p.m.Encode(); err != nil {
		t.Fatal(err)
	}
	return p
}

// upload sends what is missing; after is called once half of it was sent. It returns how much was missing.
func (p *payload) upload(ctx context.Context, conn *grpc.ClientConn, after func()) (int, error) {
	client := chunkv1.NewChunkServiceClient(conn)
	req := &chunkv1.FindMissingRequest{}
	for _, id := range p.order {
		req.Ids = append(req.Ids, bytes.Clone(id[:]))
	}
	missing, err := client.FindMissing(ctx, req)
	if err != nil {
		return 0, err
	}
	stream, err := client.PutChunks(ctx)
	if err != nil {
		return 0, err
	}
	for i, id := range missing.GetMissing() {
		if i == len(missing.GetMissing())/2 {
			after()
		}
		if stream.Send(&chunkv1.PutChunksRequest{Id: id, Data: p.chunks[chunk.ID(id)]}) != nil {
			break // CloseAndRecv has the error
		}
	}
	_, err = stream.CloseAndRecv()
	return len(missing.GetMissing()), err
}

func (p *payload) publish(ctx context.Context, conn *grpc.ClientConn) (*adminv1.PublishVersionResponse, error) {
	return adminv1.NewImageServiceClient(conn).PublishVersion(ctx, &adminv1.PublishVersionRequest{Draft: p.draft, Channels: []string{"stable"}})
}
