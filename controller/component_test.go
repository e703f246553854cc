//go:build component

package controller_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	"github.com/ltsp-fleet/ltsp-fleet/internal/rawcodec"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

// Killed in the middle of the upload and in the middle of the publication, the controller comes back, and publishing once more gives the same version,
// byte for byte.
func TestKillWhilePublishing(t *testing.T) {
	d := newDaemon(t, build(t), filepath.Join(t.TempDir(), "data"))
	d.serve()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	conn, ca := d.admin()
	p := newPayload(t, 48<<20)

	all, err := p.upload(ctx, conn, func() { d.end(syscall.SIGKILL) })
	if err == nil {
		t.Fatal("the upload survived the death of the controller")
	}
	d.serve()
	conn, _ = d.admin()
	again, err := p.upload(ctx, conn, func() {})
	if err != nil || again >= all || again == 0 {
		t.Fatalf("second upload: %d of %d chunks, error %v; want some of them", again, all, err)
	}
	killed := killDuringPublish(ctx, d, p, conn)
	d.serve()
	conn, _ = d.admin()
	resp, err := p.publish(ctx, conn)
	if err != nil {
		t.Fatalf("publish after the restart: %v", err)
	}
	id := p.m.ID()
	if v := resp.GetVersion(); !bytes.Equal(v.GetId(), id[:]) || v.GetNumber() != 1 || resp.GetCreated() == killed.done {
		t.Errorf("published %v (the first try was done: %v)", resp, killed.done)
	}
	fetchAndCompare(ctx, t, d, conn, ca, p)
	if code := d.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}

type outcome struct{ done bool }

// killDuringPublish kills the controller while it verifies, and tells whether it was too late for that.
func killDuringPublish(ctx context.Context, d *daemon, p *payload, conn *grpc.ClientConn) outcome {
	var wg sync.WaitGroup
	var o outcome
	started := make(chan struct{})
	wg.Go(func() {
		close(started)
		_, err := p.publish(ctx, conn)
		o.done = err == nil
	})
	<-started
	d.end(syscall.SIGKILL)
	wg.Wait()
	return o
}

// fetchAndCompare enrols a satellite and rebuilds the root file system from what the controller gives it.
func fetchAndCompare(ctx context.Context, t *testing.T, d *daemon, admin *grpc.ClientConn, ca *x509.Certificate, p *payload) {
	t.Helper()
	if _, err := adminv1.NewSiteServiceClient(admin).CreateSite(ctx, &adminv1.CreateSiteRequest{Site: &adminv1.Site{Name: "a", Images: []string{"lab:stable"}}}); err != nil {
		t.Fatal(err)
	}
	token, err := adminv1.NewTokenServiceClient(admin).CreateToken(ctx, &adminv1.CreateTokenRequest{Site: "a"})
	if err != nil {
		t.Fatal(err)
	}
	satellite, signing := enrol(ctx, t, d, ca, token.GetSecret())
	id := p.m.ID()
	resp, err := satellitev1.NewLinkServiceClient(satellite).GetManifest(ctx, &satellitev1.GetManifestRequest{Id: id[:], Lists: []string{"*"}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Open(resp.GetManifest(), signing)
	if err != nil {
		t.Fatal(err)
	}
	root, _ := m.Artifact(manifest.Squashfs)
	what := &chunkv1.FetchRequest_Chunks{}
	for _, ref := range root.Chunks {
		what.Ids = append(what.Ids, bytes.Clone(ref.ID[:]))
	}
	req, err := proto.Marshal(&chunkv1.FetchRequest{VersionId: id[:], What: &chunkv1.FetchRequest_Chunks_{Chunks: what}})
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	err = rawcodec.Fetch(ctx, satellite, "/ltsp.chunk.v1.BlobService/Fetch", req, func(frame []byte) error {
		got = append(got, frame...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, p.root) {
		t.Errorf("fetched %d bytes, and they are not the %d published", len(got), len(p.root))
	}
}

func enrol(ctx context.Context, t *testing.T, d *daemon, ca *x509.Certificate, text string) (*grpc.ClientConn, ed25519.PublicKey) {
	t.Helper()
	token, err := pki.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	var key *ecdsa.PrivateKey
	if key, err = pki.NewKey(); err != nil {
		t.Fatal(err)
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	newcomer := d.dial(d.addr, pki.EnrolTLS(token.Fingerprint))
	resp, err := satellitev1.NewEnrolmentServiceClient(newcomer).Enrol(ctx, &satellitev1.EnrolRequest{Token: text, Csr: csr, Name: "a1"})
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := pki.KeyPair(pki.EncodeCertificate(resp.GetCertificate()), keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return d.dial(d.addr, pki.ClientTLS(pki.NewHolder(pair), ca)), resp.GetSigningKey()
}

// The first signal lets calls finish, the second does not wait for them.
func TestSecondSignal(t *testing.T) {
	d := newDaemon(t, build(t), filepath.Join(t.TempDir(), "data"))
	d.serve()
	conn, _ := d.admin()
	stream, err := chunkv1.NewChunkServiceClient(conn).PutChunks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	data := []byte("an upload that does not end")
	id := chunk.Sum(data)
	if err := stream.Send(&chunkv1.PutChunksRequest{Id: id[:], Data: data}); err != nil {
		t.Fatal(err)
	}
	d.await("the chunk is stored", func() bool {
		_, err := os.Stat(filepath.Join(d.dir, "chunks", id.String()[:2], id.String()))
		return err == nil
	})
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	d.await("the controller takes no more connections", func() bool { return !d.listens() })
	// A signal may come while the first one's handler is still there: whoever is in a hurry sends another.
	process, ended := d.cmd.Process, make(chan int, 1)
	go func() { ended <- d.end(syscall.SIGTERM) }()
	code := 0
	d.await("the controller has ended", func() bool {
		select {
		case code = <-ended:
			return true
		default:
			_ = process.Signal(syscall.SIGTERM) // it may have ended just now
			return false
		}
	})
	if code != -1 {
		t.Errorf("exit code %d, want an end by the signal", code)
	}
}

// A full disk stops uploads with a clear error; everything else goes on, and deleting makes room.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=128m"); err != nil {
		t.Fatalf("mount tmpfs (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	d := newDaemon(t, build(t), filepath.Join(dir, "data"))
	d.serve()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	conn, _ := d.admin()
	p := newPayload(t, 80<<20)
	_, err := p.upload(ctx, conn, func() {})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "free some space") {
		t.Fatalf("upload: %v, want ResourceExhausted with advice", err)
	}
	// Metadata can still be written: some space is kept for it.
	if _, err := adminv1.NewSiteServiceClient(conn).CreateSite(ctx, &adminv1.CreateSiteRequest{Site: &adminv1.Site{Name: "a"}}); err != nil {
		t.Errorf("create a site on a full disk: %v", err)
	}
	if _, err := p.publish(ctx, conn); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("publish of what did not fit: %v, want FailedPrecondition", err)
	}
	small := newPayload(t, 1<<20)
	if _, err := small.upload(ctx, conn, func() {}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("another upload: %v, want ResourceExhausted", err)
	}
	if code := d.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}

// An init that is killed is finished by another one, whenever that was.
func TestKillInit(t *testing.T) {
	binary := build(t)
	dir := filepath.Join(t.TempDir(), "data")
	for n := range 15 {
		cmd := exec.Command(binary, "init", "--data-dir", dir, "--address", "127.0.0.1:1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(n)*3*time.Millisecond, func() { _ = cmd.Process.Kill() }) // it may have ended
		_ = cmd.Wait()
		timer.Stop()
	}
	out, err := exec.CommandContext(t.Context(), binary, "init", "--data-dir", dir, "--address", "127.0.0.1:1").CombinedOutput()
	if err != nil && !strings.Contains(string(out), "initialised already") {
		t.Fatalf("init after it was killed: %v\n%s", err, out)
	}
	serve := exec.Command(binary, "serve", "--data-dir", dir, "--listen", "127.0.0.1:0", "--metrics", "")
	reader, err := serve.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(20*time.Second, func() { _ = serve.Process.Kill() }) // the bound of this wait
	defer stop.Stop()
	line := make([]byte, 4096)
	n, err := reader.Read(line)
	if err != nil || !strings.Contains(string(line[:n]), "controller serves") {
		t.Errorf("serve: %v\n%s", err, line[:n])
	}
	if err := serve.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := serve.Wait(); err != nil {
		t.Errorf("serve ended with %v", err)
	}
}
