package tftp

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	transfers prometheus.Gauge
	requests  *prometheus.CounterVec
	sent      prometheus.Counter
}

func results() []string {
	return []string{"sent", "aborted", "not_found", "error", "busy", "address_busy", "write", "malformed"}
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		transfers: prometheus.NewGauge(prometheus.GaugeOpts{Name: "ltsp_satellite_tftp_transfers", Help: "TFTP transfers under way."}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ltsp_satellite_tftp_requests_total", Help: "TFTP requests by how they ended.",
		}, []string{"result"}),
		sent: prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_satellite_tftp_sent_bytes_total", Help: "Bytes of files sent by TFTP."}),
	}
	for _, r := range results() {
		m.requests.WithLabelValues(r)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.transfers, m.requests, m.sent} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of TFTP: %w", err)
		}
	}
	return m, nil
}
