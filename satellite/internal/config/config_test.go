package config

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

func TestParseBoot(t *testing.T) {
	tests := []struct {
		in   string
		want Boot
		ok   bool
	}{
		{"lab:stable", Boot{Image: "lab", Channel: "stable"}, true},
		{"lab", Boot{Image: "lab", Channel: "stable"}, true},
		{"lab@12", Boot{Image: "lab", Number: 12}, true},
		{"lab@0", Boot{}, false},
		{"lab@-1", Boot{}, false},
		{"lab@", Boot{}, false},
		{"lab:", Boot{}, false},
		{":stable", Boot{}, false},
		{"Lab:stable", Boot{}, false},
		{"lab:a:b", Boot{}, false},
		{"", Boot{}, false},
	}
	for _, tt := range tests {
		got, err := ParseBoot(tt.in)
		if (err == nil) != tt.ok || got != tt.want {
			t.Errorf("ParseBoot(%q) = %+v, %v", tt.in, got, err)
		}
		if err != nil {
			continue
		}
		if again, err := ParseBoot(got.String()); err != nil || again != got {
			t.Errorf("%q does not survive: %q, %v", tt.in, got, err)
		}
	}
}

func TestFind(t *testing.T) {
	d := Desired{Versions: []Version{{Image: "lab", Number: 1, Channels: []string{"stable"}}, {Image: "lab", Number: 2, Channels: []string{"testing", "next"}}, {Image: "other", Number: 2}}}
	for ref, want := range map[string]uint64{"lab:stable": 1, "lab:next": 2, "lab@2": 2, "lab@1": 1, "lab@3": 0, "lab:none": 0, "other:stable": 0, "missing@2": 0} {
		b, err := ParseBoot(ref)
		if err != nil {
			t.Fatal(err)
		}
		v, ok := d.Find(b)
		if ok != (want != 0) || v.Number != want {
			t.Errorf("%s finds version %d (%v), want %d", ref, v.Number, ok, want)
		}
	}
}

func TestMatch(t *testing.T) {
	subnet := func(name, cidr string) Subnet { return Subnet{Name: name, CIDR: netip.MustParsePrefix(cidr)} }
	iface := func(name string, up bool, addrs ...string) Interface {
		i := Interface{Name: name, Up: up}
		for _, a := range addrs {
			i.Addresses = append(i.Addresses, netip.MustParsePrefix(a))
		}
		return i
	}
	subnets := []Subnet{subnet("a", "10.1.0.0/16"), subnet("b", "10.2.0.0/16"), subnet("c", "10.3.0.0/24")}
	ifaces := []Interface{
		iface("down0", false, "10.1.0.9/16"), iface("eth0", true, "fe80::1/64", "192.168.0.1/24", "10.1.5.1/24"),
		iface("eth1", true, "10.1.0.2/16", "10.2.0.2/16"),
	}
	tests := []struct {
		name    string
		only    []string
		links   map[string]string // subnet -> interface and address
		missing []string
	}{
		{"all interfaces", nil, map[string]string{"a": "eth0 10.1.5.1/24", "b": "eth1 10.2.0.2/16"}, []string{"c"}},
		{"one interface", []string{"eth1"}, map[string]string{"a": "eth1 10.1.0.2/16", "b": "eth1 10.2.0.2/16"}, []string{"c"}},
		{"one that is down", []string{"down0"}, map[string]string{}, []string{"a", "b", "c"}},
		{"one that is not there", []string{"eth9"}, map[string]string{}, []string{"a", "b", "c"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			links, missing := Match(subnets, ifaces, tt.only)
			got := map[string]string{}
			for _, l := range links {
				got[l.Subnet.Name] = l.Interface.Name + " " + l.Address.String()
			}
			var names []string
			for _, s := range missing {
				names = append(names, s.Name)
			}
			if diff := cmp.Diff(tt.links, got); diff != "" {
				t.Errorf("links (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.missing, names); diff != "" {
				t.Errorf("missing (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLocalValidate(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for name, change := range map[string]func(*Local){
		"relative directory": func(l *Local) { l.DataDir = "data" },
		"metrics":            func(l *Local) { l.Metrics = "localhost" },
		"port 0":             func(l *Local) { l.NBDPort = 0 },
		"two on one port":    func(l *Local) { l.HTTPPort = l.NBDPort },
		"no streams":         func(l *Local) { l.Streams = 0 },
		"retain":             func(l *Local) { l.Retain = -1 },
		"interface":          func(l *Local) { l.Interfaces = []string{"eth0/1"} },
	} {
		l := Default()
		change(&l)
		if l.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDesiredSurvivesJSON(t *testing.T) {
	want := Desired{Revision: 3, Site: "hill", GossipKey: []byte{1, 2},
		Versions: []Version{{Image: "lab", Number: 1, ID: manifest.ID{1, 2, 3}, Kind: manifest.Image, Channels: []string{"stable"}}},
		Subnets: []Subnet{{Name: "a", CIDR: netip.MustParsePrefix("10.1.0.0/16"), Mode: Authoritative, RangeStart: netip.MustParseAddr("10.1.0.9"),
			DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")}, LeaseTime: time.Hour}},
		Clients: []Client{{MAC: "52:54:00:00:00:01", Name: "pc1"}}, Peers: []Peer{{Name: "sat1", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.1/16")}}},
		Boot: Policy{Boot: "lab:stable", NBDTimeout: time.Second}}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Desired
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("desired state (-want +got):\n%s", diff)
	}
}
