package satellite

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream/fakecontroller"
)

// TestMetricsAreDocumented compares what rooms register with the lists in their package comments.
func TestMetricsAreDocumented(t *testing.T) {
	b := joined(t, fakecontroller.Start(t))
	reg := prometheus.NewRegistry()
	s, err := New(Config{Local: b.local, Registry: reg})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close() }()
	descs := make(chan *prometheus.Desc)
	go func() { defer close(descs); reg.Describe(descs) }()
	registered := make(map[string]bool)
	name := regexp.MustCompile(`ltsp_satellite_(images|sync|upstream|gossip)_[a-z_]+`)
	for d := range descs {
		if n := name.FindString(d.String()); n != "" {
			registered[n] = true
		}
	}
	documented := make(map[string]bool)
	for _, room := range []string{"imagestore", "chunksync", "upstream", "gossip"} {
		text, err := os.ReadFile(filepath.Join("internal", room, "doc.go"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if n := name.FindString(line); n != "" {
				documented[n] = true
			}
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(registered))); diff != "" {
		t.Errorf("metrics (-documented +registered):\n%s", diff)
	}
}
