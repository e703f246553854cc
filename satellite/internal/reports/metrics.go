package reports

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	connections prometheus.Gauge
	refused     *prometheus.CounterVec
	lines       map[string]prometheus.Counter
	ended       *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	lines := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ltsp_satellite_reports_lines_total", Help: "Lines taken from client agents.",
	}, []string{"kind"})
	m := &metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "ltsp_satellite_reports_connections", Help: "Open report connections."}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ltsp_satellite_reports_refused_total", Help: "Report connections closed at once, by the limit that was reached.",
		}, []string{"reason"}),
		lines: make(map[string]prometheus.Counter),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ltsp_satellite_reports_ended_total", Help: "Report streams by how they ended.",
		}, []string{"reason"}),
	}
	for _, k := range []string{"hello", "report", "failure"} {
		m.lines[k] = lines.WithLabelValues(k)
	}
	for _, r := range []string{"total", "address"} {
		m.refused.WithLabelValues(r)
	}
	for _, r := range []string{"closed", "handshake", "silent", "line", "token", "rate", "replaced"} {
		m.ended.WithLabelValues(r)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.connections, m.refused, lines, m.ended} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of reports: %w", err)
		}
	}
	return m, nil
}
