package fleet_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
)

func view() fleet.SiteView {
	day := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	return fleet.SiteView{
		Site:    fleet.Site{Name: "a", Images: []string{"lab:stable"}},
		Subnets: []fleet.Subnet{lan(), {Site: "a", Name: "guests", Satellite: "gone"}},
		Clients: []fleet.Client{{MAC: "52:54:00:00:00:02"}, {MAC: "52:54:00:00:00:01", Boot: "lab@1"}},
		Satellites: []fleet.Satellite{
			{Name: "late", Enrolled: day.Add(time.Hour)}, {Name: "revoked", Enrolled: day, Revoked: true}, {Name: "early", Enrolled: day},
		},
		Addresses: map[string][]string{"early": {"10.1.0.3/24", "10.1.0.2/24"}, "revoked": {"10.1.0.9/24"}},
		GossipKey: []byte("key"),
		Library:   newLibrary(),
	}
}

func versions(d fleet.DesiredState) string {
	s := ""
	for _, v := range d.Versions {
		s += fmt.Sprintf("%s@%d%v ", v.Image, v.Number, v.Channels)
	}
	return s
}

func TestComposeVersions(t *testing.T) {
	tests := []struct {
		name   string
		change func(*fleet.SiteView)
		want   string
	}{
		{"site's image, a pin, boot loaders", func(*fleet.SiteView) {}, "bootloaders@1[stable] lab@1[] lab@2[same stable] "},
		{"subnet's image", func(v *fleet.SiteView) { v.Subnets[0].Boot = "office:stable" }, "bootloaders@1[stable] lab@1[] lab@2[same stable] office@1[stable] "},
		{"policy's image", func(v *fleet.SiteView) { v.Site.Boot.Boot = "lab:testing" }, "bootloaders@1[stable] lab@1[] lab@2[same stable] lab@3[testing] "},
		{"one version by two names", func(v *fleet.SiteView) { v.Clients[0].Boot = "lab:same" }, "bootloaders@1[stable] lab@1[] lab@2[same stable] "},
		{"not published yet", func(v *fleet.SiteView) { v.Site.Images = []string{"future:stable", "lab:future"} }, "bootloaders@1[stable] lab@1[] "},
		{"nothing at all", func(v *fleet.SiteView) { v.Site.Images, v.Clients, v.Library = nil, nil, library{} }, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := view()
			test.change(&v)
			if got := versions(fleet.Compose(v)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestCompose(t *testing.T) {
	d := fleet.Compose(view())
	if got := fmt.Sprint(d.Peers); got != "[{early [10.1.0.2/24 10.1.0.3/24]} {late []}]" {
		t.Errorf("peers %s", got)
	}
	for _, s := range d.Subnets {
		if s.Satellite != "early" {
			t.Errorf("subnet %s is owned by %q, want the first enrolled", s.Name, s.Satellite)
		}
	}
	if d.Boot.Boot != "lab:stable" {
		t.Errorf("boots %q, want the site's first image", d.Boot.Boot)
	}
	if d.Clients[0].MAC != "52:54:00:00:00:01" || d.Subnets[0].Name != "guests" {
		t.Error("clients or subnets are not in order")
	}
	v := view()
	v.Satellites = nil
	if d := fleet.Compose(v); d.Subnets[0].Satellite != "" {
		t.Errorf("without satellites %q owns a subnet", d.Subnets[0].Satellite)
	}
}

// Only content counts: a satellite is not told again because a list came in another order.
func TestSum(t *testing.T) {
	sum := func(v fleet.SiteView) fleet.Hash {
		t.Helper()
		d := fleet.Compose(v)
		h, err := d.Sum()
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	base := sum(view())
	v := view()
	v.Clients[0], v.Clients[1] = v.Clients[1], v.Clients[0]
	v.Subnets[0], v.Subnets[1] = v.Subnets[1], v.Subnets[0]
	v.Addresses["early"] = []string{"10.1.0.2/24", "10.1.0.3/24"}
	if sum(v) != base {
		t.Error("another order gives another sum")
	}
	for name, change := range map[string]func(*fleet.SiteView){
		"parameters": func(v *fleet.SiteView) { v.Site.Boot.KernelParameters = "quiet" },
		"address":    func(v *fleet.SiteView) { v.Addresses["late"] = []string{"10.1.0.4/24"} },
		"key":        func(v *fleet.SiteView) { v.GossipKey = []byte("other") },
		"revoked":    func(v *fleet.SiteView) { v.Satellites[0].Revoked = true },
		"client":     func(v *fleet.SiteView) { v.Clients[0].Name = "pc2" },
	} {
		v := view()
		change(&v)
		if sum(v) == base {
			t.Errorf("%s: a change gives the same sum", name)
		}
	}
}
