package chunksync

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore"
)

type metrics struct {
	chunks   *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	failures *prometheus.CounterVec
	behind   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Syncer) (*metrics, error) {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	m := &metrics{
		chunks:   counter("ltsp_satellite_sync_chunks_total", "Chunks written to versions on the disk.", "source"),
		bytes:    counter("ltsp_satellite_sync_bytes_total", "Bytes of the chunks written to versions on the disk.", "source"),
		failures: counter("ltsp_satellite_sync_failures_total", "Attempts to bring a version that failed.", "cause"),
		behind: prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_satellite_sync_behind_total",
			Help: "Transfers that fell behind their plan."}),
	}
	if reg == nil {
		return m, nil
	}
	pending := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ltsp_satellite_sync_pending_versions", Help: "Wanted versions that are not verified."}, s.pending)
	for _, c := range []prometheus.Collector{m.chunks, m.bytes, m.failures, m.behind, pending} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register synchronisation metrics: %w", err)
		}
	}
	return m, nil
}

func (s *Syncer) pending() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, e := range s.wanted {
		if e.state != Verified {
			n++
		}
	}
	return float64(n)
}

func (m *metrics) wrote(source string, bytes int) {
	m.chunks.WithLabelValues(source).Inc()
	m.bytes.WithLabelValues(source).Add(float64(bytes))
}

func (m *metrics) failed(err error) {
	cause := "disk"
	switch {
	case errors.Is(err, imagestore.ErrNoSpace):
		cause = "space"
	case errors.Is(err, imagestore.ErrCorrupt):
		cause = "corrupt"
	case errors.Is(err, errManifest), lasting(err):
		cause = "manifest"
	case errors.Is(err, errSource):
		cause = "source"
	}
	m.failures.WithLabelValues(cause).Inc()
}
