package rebuild

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts for all rebuilds of a satellite. A nil Metrics counts nothing.
type Metrics struct {
	fetched       prometheus.Counter
	groups        *prometheus.CounterVec
	pieces, waits *prometheus.CounterVec
	seconds       prometheus.Histogram
}

// NewMetrics registers the metrics of the package comment.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ltsp_satellite_rebuild_" + name, Help: help}, []string{label})
	}
	m := &Metrics{
		fetched: prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_satellite_rebuild_fetched_bytes_total", Help: "Bytes of deltas that arrived."}),
		groups:  vec("groups_total", "Groups of deltas, by what became of them.", "result"),
		pieces:  vec("pieces_total", "Pieces of rebuilt versions that were proven, by origin.", "origin"),
		waits:   vec("waits_total", "Reads of versions under way that had to wait.", "result"),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "ltsp_satellite_rebuild_wait_seconds", Help: "How long reads of versions under way waited.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 20}}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.fetched, m.groups, m.pieces, m.waits, m.seconds} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register rebuild metrics: %w", err)
		}
	}
	return m, nil
}

func (m *Metrics) arrived(n int) {
	if m != nil {
		m.fetched.Add(float64(n))
	}
}

func (m *Metrics) group(result string) {
	if m != nil {
		m.groups.WithLabelValues(result).Inc()
	}
}

func (m *Metrics) piece(origin string, n int) {
	if m != nil && n > 0 {
		m.pieces.WithLabelValues(origin).Add(float64(n))
	}
}

func (m *Metrics) waited(d time.Duration, err error) {
	if m == nil {
		return
	}
	result := "served"
	switch {
	case errors.Is(err, ErrLate):
		result = "late"
	case err != nil:
		result = "ended"
	}
	m.waits.WithLabelValues(result).Inc()
	m.seconds.Observe(d.Seconds())
}
