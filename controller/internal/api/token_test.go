package api_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/api"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/enroll"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

func TestTokens(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	tokens := adminv1.NewTokenServiceClient(admin)
	b.site(admin, "a")

	good := b.token(admin, "a")
	forged := strings.Split(good, "-")
	forged[2] = strings.Map(func(r rune) rune { return map[bool]rune{true: 'b', false: 'a'}[r == 'a'] }, forged[2])
	_, err := b.tryEnrol(strings.Join(forged, "-"), "a1", newKey(t))
	want(t, "forged secret", err, codes.PermissionDenied)
	_, err = b.tryEnrol("ltsp-abc", "a1", newKey(t))
	want(t, "garbled token", err, codes.PermissionDenied)

	key := newKey(t)
	if _, err := b.tryEnrol(good, "a1", key); err != nil {
		t.Fatalf("good token: %v", err)
	}
	again, err := b.tryEnrol(good, "a1", key)
	if err != nil {
		t.Errorf("the answer was lost and is asked for again: %v", err)
	}
	sat := &satellite{ClientConn: b.dialAs(pki.NewHolder(pairOf(t, key, again.GetCertificate())))}
	if _, err := b.connect(sat).Recv(); err != nil {
		t.Errorf("connect with the second answer: %v", err)
	}
	_, err = b.tryEnrol(good, "a1", newKey(t))
	want(t, "reused token with another key", err, codes.PermissionDenied)
	_, err = b.tryEnrol(good, "a2", key)
	want(t, "reused token for another name", err, codes.PermissionDenied)

	second := b.token(admin, "a")
	_, err = b.tryEnrol(second, "a1", newKey(t))
	want(t, "taken name", err, codes.AlreadyExists)
	_, err = b.tryEnrol(second, "A1!", newKey(t))
	want(t, "bad name", err, codes.InvalidArgument)
	b.enrol(second, "a2") // neither used it up

	revoked := b.token(admin, "a")
	id := strings.Split(revoked, "-")[1]
	if _, err := tokens.RevokeToken(b.ctx, &adminv1.RevokeTokenRequest{Id: id}); err != nil {
		t.Fatal(err)
	}
	_, err = b.tryEnrol(revoked, "a3", newKey(t))
	want(t, "revoked token", err, codes.PermissionDenied)
	_, err = tokens.RevokeToken(b.ctx, &adminv1.RevokeTokenRequest{Id: strings.Split(good, "-")[1]})
	want(t, "revoke a used token", err, codes.FailedPrecondition)

	short, err := tokens.CreateToken(b.ctx, &adminv1.CreateTokenRequest{Site: "a", Lifetime: durationpb.New(2 * time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	b.clock.advance(3 * time.Minute)
	_, err = b.tryEnrol(short.GetSecret(), "a3", newKey(t))
	want(t, "expired token", err, codes.PermissionDenied)
	checkStates(t, b, tokens, map[string]int{"used": 2, "revoked": 1, "expired": 1})
	if b.logs.contains(strings.Split(good, "-")[2]) {
		t.Error("the log holds a token's secret")
	}
}

func checkStates(t *testing.T, b *bench, tokens adminv1.TokenServiceClient, want map[string]int) {
	t.Helper()
	list, err := tokens.ListTokens(b.ctx, &adminv1.ListTokensRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range list.GetTokens() {
		want[token.GetState()]--
	}
	for state, n := range want {
		if n != 0 {
			t.Errorf("%d tokens too few in state %s: %v", n, state, list)
		}
	}
}

// A token names its controller: a satellite leaves before it says anything to another, and that one would refuse the token.
func TestTokenOfAnotherCA(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.site(admin, "a")
	other, err := enroll.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	foreign, _, err := enroll.NewToken(other.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.tryEnrol(foreign.Text(), "a1", newKey(t))
	want(t, "satellite that expects another CA", err, codes.Unavailable)
	if err == nil || !strings.Contains(err.Error(), pki.ErrFingerprint.Error()) {
		t.Errorf("got %v, want the fingerprint's error", err)
	}
	csr, err := pki.NewCSR(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	conn := b.dial(pki.EnrolTLS(b.ca.Fingerprint()))
	_, err = satellitev1.NewEnrolmentServiceClient(conn).Enrol(b.ctx, &satellitev1.EnrolRequest{Token: foreign.Text(), Csr: csr, Name: "a1"})
	want(t, "token of another CA", err, codes.PermissionDenied)
}

func TestGuessingIsLimited(t *testing.T) {
	b := start(t, api.Limits{})
	b.site(b.admin("anna"), "a")
	var last error
	for range 50 {
		if _, last = b.tryEnrol("rubbish", "a1", newKey(t)); status.Code(last) == codes.ResourceExhausted {
			return
		}
	}
	t.Errorf("50 guesses, the last got %v", last)
}

func TestBadRequests(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.site(admin, "a")
	conn := b.dial(pki.EnrolTLS(b.ca.Fingerprint()))
	enrolment := satellitev1.NewEnrolmentServiceClient(conn)
	csr, err := pki.NewCSR(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(csr)
	forged[len(forged)-1] ^= 1 // the signature
	for name, csr := range map[string][]byte{"empty": nil, "rubbish": []byte("rubbish"), "large": make([]byte, 100_000), "bad signature": forged} {
		_, err := enrolment.Enrol(b.ctx, &satellitev1.EnrolRequest{Token: b.token(admin, "a"), Csr: csr, Name: "a1"})
		want(t, "CSR "+name, err, codes.InvalidArgument)
	}
	tokens := adminv1.NewTokenServiceClient(admin)
	for name, req := range map[string]*adminv1.CreateTokenRequest{
		"no site": {}, "bad role": {Role: "king"}, "admin with a site": {Role: "admin", Site: "a"}, "too long": {Site: "a", Lifetime: durationpb.New(999 * time.Hour)},
		"too short": {Site: "a", Lifetime: durationpb.New(time.Second)},
	} {
		_, err := tokens.CreateToken(b.ctx, req)
		want(t, "token with "+name, err, codes.InvalidArgument)
	}
	_, err = tokens.CreateToken(b.ctx, &adminv1.CreateTokenRequest{Site: "nowhere"})
	want(t, "token for no site", err, codes.NotFound)
}

// A second admin enrols with a token like a satellite does.
func TestAdminToken(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	resp, err := adminv1.NewTokenServiceClient(admin).CreateToken(b.ctx, &adminv1.CreateTokenRequest{Role: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	second := b.enrol(resp.GetSecret(), "berta")
	b.site(second.ClientConn, "b")
	_, err = satellitev1.NewLinkServiceClient(second).GetManifest(b.ctx, &satellitev1.GetManifestRequest{Id: make([]byte, 32)})
	want(t, "admin as a satellite", err, codes.PermissionDenied)
}
