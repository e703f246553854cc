package agentproto

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func golden(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/boot.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func goldenConfig(t testing.TB) *BootConfig {
	t.Helper()
	c, err := ParseBootConfig(golden(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestParseBootConfigGolden(t *testing.T) {
	t.Parallel()
	got := goldenConfig(t)
	digest := strings.Repeat("4f1c3a6de8b09572", 4)
	want := &BootConfig{
		Version: 1, Site: "school-a", Image: "lab", Number: 7, Digest: digest, Export: "lab@" + digest,
		SizeBytes: 205795328, DataBytes: 204173312,
		Satellites: []Satellite{
			{Name: "a1", Addr: "192.168.67.1", NBDPort: 10809, ReportPort: 7443},
			{Name: "a2", Addr: "192.168.67.2", NBDPort: 10809, ReportPort: 7443},
		},
		TrustAnchor: got.TrustAnchor, Token: "00112233445566778899aabbccddeeff",
		Now:      time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC),
		Hostname: "pc07", DNS: []string{"192.168.67.1"}, SearchDomain: "school.example",
		NBDTimeout: Duration(5 * time.Second), DeadTimeout: Duration(10 * time.Minute),
		Verity: true, OverlaySizePercent: 50,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	text, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(golden(t)), string(text)+"\n"); diff != "" {
		t.Errorf("written form differs from the golden file: %s", diff)
	}
}

func TestValidateRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*BootConfig)
		want   string
	}{
		{"version", func(c *BootConfig) { c.Version = 2 }, "version 2"},
		{"no site", func(c *BootConfig) { c.Site = "" }, "site"},
		{"site with slash", func(c *BootConfig) { c.Site = "a/satellite" }, "site"},
		{"image with at", func(c *BootConfig) { c.Image = "a@b" }, "image"},
		{"image with blank", func(c *BootConfig) { c.Image = "a b" }, "image"},
		{"digest short", func(c *BootConfig) { c.Digest = c.Digest[1:] }, "digest"},
		{"digest upper case", func(c *BootConfig) { c.Digest = strings.ToUpper(c.Digest) }, "digest"},
		{"export of another digest", func(c *BootConfig) { c.Export = "lab@" + strings.Repeat("0", 64) }, "export"},
		{"data not in blocks", func(c *BootConfig) { c.DataBytes++ }, "data_bytes"},
		{"no data", func(c *BootConfig) { c.DataBytes = 0 }, "data_bytes"},
		{"size below data", func(c *BootConfig) { c.SizeBytes = c.DataBytes - 4096 }, "size_bytes"},
		{"size not in sectors", func(c *BootConfig) { c.SizeBytes++ }, "size_bytes"},
		{"size huge", func(c *BootConfig) { c.SizeBytes = 1 << 63 }, "size_bytes"},
		{"overlay", func(c *BootConfig) { c.OverlaySizePercent = 101 }, "overlay_size_percent"},
		{"nbd timeout below a second", func(c *BootConfig) { c.NBDTimeout = Duration(time.Millisecond) }, "nbd_timeout"},
		{"dead timeout negative", func(c *BootConfig) { c.DeadTimeout = -1 }, "dead_timeout"},
		{"no satellite", func(c *BootConfig) { c.Satellites = nil }, "no satellite"},
		{"many satellites", func(c *BootConfig) { c.Satellites = make([]Satellite, 65) }, "65 satellites"},
		{"satellite by name", func(c *BootConfig) { c.Satellites[0].Addr = "a1.example" }, "satellite 0"},
		{"satellite 0.0.0.0", func(c *BootConfig) { c.Satellites[1].Addr = "0.0.0.0" }, "satellite 1"},
		{"satellite port", func(c *BootConfig) { c.Satellites[1].NBDPort = 0 }, "port 0"},
		{"anchor", func(c *BootConfig) { c.TrustAnchor = "x" }, "trust_anchor"},
		{"token", func(c *BootConfig) { c.Token = "abc" }, "token"},
		{"hostname with newline", func(c *BootConfig) { c.Hostname = "pc\nx" }, "hostname"},
		{"hostname with dot", func(c *BootConfig) { c.Hostname = "pc.x" }, "hostname"},
		{"dns by name", func(c *BootConfig) { c.DNS = []string{"ns"} }, "DNS server"},
		{"dns many", func(c *BootConfig) { c.DNS = make([]string, 9) }, "9 DNS servers"},
		{"search with newline", func(c *BootConfig) { c.SearchDomain = "a\nnameserver 1.2.3.4" }, "search_domain"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := goldenConfig(t)
			tt.change(c)
			err := c.Validate()
			if !errors.Is(err, ErrBadConfig) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one about %q", err, tt.want)
			}
		})
	}
}

func TestValidateAccepts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*BootConfig)
	}{
		{"defaults", func(c *BootConfig) {
			c.Hostname, c.DNS, c.SearchDomain, c.NBDTimeout, c.DeadTimeout = "", nil, "", 0, 0
		}},
		{"IPv6", func(c *BootConfig) { c.Satellites[0].Addr = "fd67::1" }},
		{"no tree", func(c *BootConfig) { c.SizeBytes, c.Verity = c.DataBytes, false }},
		{"search domain with underscore", func(c *BootConfig) { c.SearchDomain = "_x.school-a.example" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := goldenConfig(t)
			tt.change(c)
			if err := c.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestParseBootConfigRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, want string }{
		{"empty", "", "unexpected end"},
		{"array", "[]", "cannot unmarshal"},
		{"other version with other types", `{"version":2,"site":7}`, "version 2"},
		{"number as duration", `{"version":1,"nbd_timeout":5}`, "duration"},
		{"too long", strings.Repeat(" ", MaxBootConfig+1), "the limit is"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseBootConfig([]byte(tt.text))
			if !errors.Is(err, ErrBadConfig) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one about %q", err, tt.want)
			}
		})
	}
}

func TestParseBootConfigIgnoresUnknownFields(t *testing.T) {
	t.Parallel()
	text := strings.Replace(string(golden(t)), "{", `{"later": {"x": 1},`, 1)
	if _, err := ParseBootConfig([]byte(text)); err != nil {
		t.Error(err)
	}
}

func FuzzParseBootConfig(f *testing.F) {
	f.Add(golden(f))
	f.Add([]byte(`{"version":1,"dead_timeout":"10m"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseBootConfig(data)
		if err != nil {
			return
		}
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatalf("accepted configuration cannot be written: %v", err)
		}
		again, err := ParseBootConfig(text)
		if err != nil {
			t.Fatalf("written configuration is refused: %v", err)
		}
		if diff := cmp.Diff(c, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}
