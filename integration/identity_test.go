//go:build component

package integration

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// TestJoinTokens: a token that is no good makes no satellite, and says why.
func TestJoinTokens(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "fatoken")
	j := school.Joining{Name: "sat1", WAN: "10.77.0.11/24", LAN: "192.168.67.1/24"}
	f.must(f.SatelliteHost(j))
	refused := func(what, token, want string) {
		t.Helper()
		err := f.Enrol(f.ctx(), j, token)
		if school.ExitCode(err) != 1 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: exit status %d: %v, want %q", what, school.ExitCode(err), err, want)
		}
		if _, err := os.Stat(filepath.Join(f.DataDir("sat1"), "identity.json")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: it left an identity (%v)", what, err)
		}
	}
	good := f.token()
	parts := strings.Split(good, "-")
	forged := strings.Join([]string{parts[0], parts[1], strings.Repeat("a", len(parts[2])), parts[3]}, "-")
	refused("forged secret", forged, "token")
	refused("token that was never made", strings.Join([]string{parts[0], "aaaaaaaa", parts[2], parts[3]}, "-"), "token")
	refused("no token", "ltsp-nothing", "not a join token")
	foreign := strings.Join([]string{parts[0], parts[1], parts[2], f.foreignFingerprint()}, "-")
	before := f.auditLength()
	refused("fingerprint of another CA", foreign, "nothing was sent to it")

	revoked := f.token()
	f.must(f.Do(f.ctx(), "token", "revoke", strings.Split(revoked, "-")[1]))
	refused("revoked", revoked, "token")
	// None of it has used the good one up.
	f.must(f.Enrol(f.ctx(), j, good))
	if n := f.auditLength() - before; n != 3 { // created, revoked, enrolled
		t.Errorf("%d audit entries for three changes", n)
	}
	f.must(os.RemoveAll(f.DataDir("sat1")))
	refused("used", good, "token")
	j.Name = "sat2"
	f.must(f.SatelliteHost(school.Joining{Name: "sat2", WAN: "10.77.0.12/24", LAN: "192.168.67.2/24"}))
	refused("used, by another", good, "token")
	f.checkAudit("token.create", "token.revoke", "satellite.enrol")
}

func (f *fleet) token() string {
	f.t.Helper()
	token, err := f.Token(f.ctx(), school.Site)
	f.must(err)
	return token
}

// foreignFingerprint makes another controller's CA.
func (f *fleet) foreignFingerprint() string {
	f.t.Helper()
	dir := filepath.Join(f.Dir, "foreign")
	host, err := f.Lab.Host("foreign", f.WAN.At("10.77.0.99/24"))
	f.must(err)
	out, err := f.Run(f.ctx(), host, filepath.Join(f.Bin, "ltsp-controller"), "init", "--data-dir", dir, "--address", "10.77.0.99:7400")
	f.must(err)
	m := regexp.MustCompile(`[0-9a-f]{64}`).FindString(out)
	if m == "" {
		f.t.Fatalf("no fingerprint in %s", out)
	}
	return m
}

// TestSitesAreApart: what a satellite of one site gets, and what it does not, with real and forged certificates; then it is revoked.
func TestSitesAreApart(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "faident")
	lanB, err := f.Lab.Bridge("lanb")
	f.must(err)
	f.must(f.Do(f.ctx(), "site", "create", "school2", "--image", "exam:"+school.Channel))
	f.joined(school.Joining{Name: "sat1", WAN: "10.77.0.11/24", LAN: "192.168.67.1/24"})
	f.joined(school.Joining{Name: "sat2", WAN: "10.77.0.12/24", LAN: "192.168.68.1/24", Bridge: lanB, Site: "school2"})
	a := f.publish(school.Publishing{File: f.image(1, 4*megabyte)})
	b := f.publish(school.Publishing{File: f.image(2, 4*megabyte), Name: "exam"})
	f.awaitVersion("sat1", a.Version.ID)
	f.awaitVersion("sat2", b.Version.ID)
	for _, x := range []struct{ satellite, foreign string }{{"sat1", b.Version.ID}, {"sat2", a.Version.ID}} {
		for _, dir := range []string{"images", "incoming"} {
			if slices.Contains(f.versionsOn(x.satellite, dir), x.foreign) {
				t.Errorf("%s of %s holds the other site's version", dir, x.satellite)
			}
		}
		if _, _, _, _, ok := f.held(x.satellite, x.foreign); ok {
			t.Errorf("%s reports the other site's version", x.satellite)
		}
	}
	w := newWitness(f, a, b)
	t.Run("certificates", w.certificates)
	t.Run("revoked", w.revoked)
}

func (w *witness) certificates(t *testing.T) {
	w = w.in(t)
	ofSatellites := []call{w.manifest(w.idA), w.chunk(w.idA), w.plan(w.idA)}
	w.expect("the certificate of sat1", w.sat1, codes.OK, ofSatellites...)
	w.expect("the certificate of sat2 for its own version", w.sat2, codes.OK, w.manifest(w.idB))
	w.expect("the certificate of sat1, a delta that is not there", w.sat1, codes.NotFound, w.delta(w.idA))
	w.expect("the certificate of sat2", w.sat2, codes.PermissionDenied, append(ofSatellites, w.delta(w.idA))...)
	w.expect("the certificate of sat2, chunk of another version", w.sat2, codes.PermissionDenied, w.chunk(w.idB))
	w.expect("a satellite's certificate", w.sat1, codes.PermissionDenied, adminCalls()...)
	listed := adminCalls()[:4]
	w.expect("no certificate", nil, codes.Unauthenticated, slices.Concat(ofSatellites, listed, []call{w.connect(), w.renew()})...)

	// Whoever steals the CA's key: the controller knows whom it gave certificates to.
	for _, id := range []string{"ltsp://site/" + school.Site + "/satellite/sat1", "ltsp://site/" + school.Site + "/satellite/ghost", "ltsp://site/school2/satellite/sat1"} {
		forged := w.issue(w.ca, w.caKey, id)
		w.expect("a forged certificate of the CA for "+id, forged, codes.Unauthenticated, append(ofSatellites, w.connect(), w.renew())...)
	}
	w.expect("a forged admin's certificate of the CA", w.issue(w.ca, w.caKey, "ltsp://admin/admin"), codes.Unauthenticated, listed...)
	strange, strangeKey := w.strangeCA()
	w.expect("a certificate of a strange CA", w.issue(strange, strangeKey, "ltsp://site/"+school.Site+"/satellite/sat1"), codes.Unavailable, append(ofSatellites, w.connect())...)
}

// strangeCA makes a CA that looks like the controller's but for its key.
func (w *witness) strangeCA() (*x509.Certificate, crypto.Signer) {
	w.t.Helper()
	key, err := pki.NewKey()
	w.must(err)
	template := &x509.Certificate{SerialNumber: w.ca.SerialNumber, Subject: w.ca.Subject, SubjectKeyId: w.ca.SubjectKeyId, NotBefore: w.ca.NotBefore, NotAfter: w.ca.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: w.ca.KeyUsage}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	w.must(err)
	ca, err := x509.ParseCertificate(der)
	w.must(err)
	return ca, key
}

func (w *witness) revoked(t *testing.T) {
	w = w.in(t)
	open := w.dial(w.sat1)
	w.must(w.manifest(w.idA).do(w.ctx(), open))
	w.must(w.Do(w.ctx(), "satellite", "revoke", "sat1"))
	for _, c := range []call{w.manifest(w.idA), w.chunk(w.idA), w.delta(w.idA), w.plan(w.idA), w.connect(), w.renew()} {
		if err := c.do(w.ctx(), open); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s by a connection from before the revocation: %v", c.name, err)
		}
	}
	w.expect("a revoked certificate", w.sat1, codes.PermissionDenied, w.manifest(w.idA), w.chunk(w.idA), w.delta(w.idA), w.plan(w.idA), w.connect(), w.renew())
	w.awaitState("sat1", "revoked")
	w.awaitOffline("sat1")

	// It knows what it knew; what comes later it does not get.
	late := w.publish(school.Publishing{File: w.image(3, megabyte)})
	w.must(w.Kill9("sat1"))
	w.start("sat1")
	w.awaitOffline("sat1")
	w.awaitState("sat1", "revoked")
	if n := w.versionsOn("sat1", "images"); slices.Contains(n, late.Version.ID) {
		t.Error("a revoked satellite got a new version")
	}
	j := school.Joining{Name: "sat1", WAN: "10.77.0.11/24", LAN: "192.168.67.1/24"}
	w.must(w.Stop(w.ctx(), "sat1"))
	w.must(os.Rename(filepath.Join(w.DataDir("sat1"), "identity.json"), filepath.Join(w.Dir, "old-identity.json")))
	if err := w.Enrol(w.ctx(), j, w.token()); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("the name of a revoked satellite was given again: %v", err)
	}
	// An admin who deletes it gives the name free; the old certificate stays worthless.
	w.must(w.Do(w.ctx(), "satellite", "delete", "sat1"))
	w.must(w.Enrol(w.ctx(), j, w.token()))
	w.start("sat1")
	w.awaitVersion("sat1", late.Version.ID)
	w.expect("the certificate from before the revocation", w.sat1, codes.Unauthenticated, w.manifest(w.idA), w.chunk(w.idA), w.delta(w.idA), w.plan(w.idA), w.connect(), w.renew())
	w.checkAudit("satellite.revoke", "satellite.delete")
}

// awaitOffline waits until a satellite itself says that it is revoked and not connected.
func (w *witness) awaitOffline(name string) {
	w.t.Helper()
	w.must(w.Await(w.ctx(), name+" knows that it is revoked", func() error {
		out, err := w.Run(w.ctx(), w.Satellite(name), filepath.Join(w.Bin, "ltsp-satellite"), "status", "--data-dir", w.DataDir(name))
		if err == nil && (!strings.Contains(out, "not connected") || !strings.Contains(out, "revoked")) {
			err = fmt.Errorf("its status is\n%s", out)
		}
		return err
	}))
}
