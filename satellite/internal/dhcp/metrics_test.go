package dhcp

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// TestMetricsAreDocumented compares the list in the package comment with what is registered.
func TestMetricsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range regexp.MustCompile(`(?m)^//\t(ltsp_\w+)`).FindAllStringSubmatch(string(doc), -1) {
		listed = append(listed, m[1])
	}
	reg := prometheus.NewRegistry()
	m := newMetrics(func() map[string]lease.Count { return map[string]lease.Count{"room": {}} }, func() float64 { return 0 })
	if err := m.register(reg); err != nil {
		t.Fatal(err)
	}
	m.packets.WithLabelValues("discover")
	m.replies.WithLabelValues("offer")
	m.dropped.WithLabelValues(string(dropRate))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var registered []string
	for _, f := range families {
		registered = append(registered, f.GetName())
	}
	slices.Sort(listed)
	if d := cmp.Diff(listed, registered); d != "" {
		t.Errorf("metrics (-package comment +registered):\n%s", d)
	}
}
