package upstream

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

func TestRenewalDue(t *testing.T) {
	begin := time.Unix(1_800_000_000, 0)
	leaf := &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(30 * 24 * time.Hour)}
	for after, want := range map[time.Duration]bool{-time.Hour: false, 0: false, 19 * 24 * time.Hour: false, 20*24*time.Hour + time.Second: true, 31 * 24 * time.Hour: true} {
		if got := renewalDue(leaf, begin.Add(after)); got != want {
			t.Errorf("after %s: %v, want %v", after, got, want)
		}
	}
}

func TestBackoffIsBounded(t *testing.T) {
	for failures := 1; failures < 100; failures++ {
		bound := min(backoffBase<<min(failures-1, 10), backoffMax)
		for range 100 {
			if d := backoff(failures); d < backoffMin || d >= backoffMin+bound {
				t.Fatalf("after %d failures: %s, want %s to %s", failures, d, backoffMin, backoffMin+bound)
			}
		}
	}
}

func TestPlainErrors(t *testing.T) {
	tests := []struct{ in, want string }{
		{`connection error: desc = "transport: Error while dialing: dial tcp 10.0.0.1:7400: connect: connection refused"`, "dial tcp 10.0.0.1:7400: connect: connection refused"},
		{`connection error: desc = "error reading server preface: remote error: tls: bad certificate"`, "remote error: tls: bad certificate"},
		{"the certificate was revoked", "the certificate was revoked"},
	}
	for _, tt := range tests {
		if got := plain(status.Error(codes.Unavailable, tt.in)); got.Error() != tt.want {
			t.Errorf("%q becomes %q, want %q", tt.in, got, tt.want)
		}
	}
	if err := plain(errRenewed); !errors.Is(err, errRenewed) {
		t.Errorf("other errors are changed: %v", err)
	}
}

func FuzzDesired(f *testing.F) {
	seed := func(d *satellitev1.DesiredState) {
		b, err := proto.Marshal(d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	seed(&satellitev1.DesiredState{Revision: 3, Site: "hill", GossipKey: make([]byte, 32),
		Versions: []*satellitev1.DesiredVersion{{Image: "lab", Number: 1, Id: make([]byte, 32), Kind: "image", Channels: []string{"stable"}}},
		Subnets:  []*satellitev1.Subnet{{Name: "a", Cidr: "10.0.0.0/24", Mode: satellitev1.DhcpMode_DHCP_MODE_PROXY, RangeStart: "10.0.0.1", Dns: []string{"::1"}}},
		Clients:  []*satellitev1.Client{{Mac: "52:54:00:00:00:01", Address: "10.0.0.9"}},
		Peers:    []*satellitev1.Peer{{Name: "sat1", Addresses: []string{"10.0.0.1/24"}}}, Boot: &satellitev1.BootPolicy{Boot: "lab:stable"}})
	seed(&satellitev1.DesiredState{Policies: []*satellitev1.PolicyLayer{{Scope: "site/hill", Number: 1, Sha256: make([]byte, 32), SizeBytes: 9}},
		LoginHost: &satellitev1.LoginHost{Address: "local", HostKeys: []string{"ssh-ed25519 AAAA"}}, Commands: []string{"run"}})
	seed(&satellitev1.DesiredState{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p satellitev1.DesiredState
		if proto.Unmarshal(b, &p) != nil {
			return
		}
		d, _ := desired(&p)
		for _, s := range d.Subnets {
			if !s.CIDR.IsValid() || s.CIDR != s.CIDR.Masked() {
				t.Fatalf("subnet %q has CIDR %s", s.Name, s.CIDR)
			}
		}
		for _, c := range d.Clients {
			if c.MAC == "" {
				t.Fatal("client without MAC")
			}
		}
		if len(d.Policies) > 0 && d.PoliciesUnusable != "" || len(p.GetPolicies()) != len(d.Policies) && d.PoliciesUnusable == "" {
			t.Fatalf("%d of %d policies, unusable %q", len(d.Policies), len(p.GetPolicies()), d.PoliciesUnusable)
		}
		if l := d.Login; l.Address != "" && (l.Port == 0 || l.User == "") {
			t.Fatalf("login host %+v", l)
		}
		if n := len(d.GossipKey); n != 0 && n != 16 && n != 24 && n != 32 {
			t.Fatalf("gossip key of %d bytes", n)
		}
	})
}

func FuzzFingerprint(f *testing.F) {
	f.Add("ltsp-id-secret-bfca9a4e339ded8680a7d50993fd4e9978791226cead82d6db8f3b7057a79cdc")
	f.Add("ltsp---")
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		fp, err := fingerprint(token)
		if (err == nil) != (len(fp) == 64) {
			t.Fatalf("fingerprint %q, %v", fp, err)
		}
	})
}
