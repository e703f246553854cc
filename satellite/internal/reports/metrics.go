package reports

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	connections prometheus.Gauge
	refused     *prometheus.CounterVec
	lines       map[string]prometheus.Counter
	ended       *prometheus.CounterVec
	notices     prometheus.Counter
	commands    *prometheus.CounterVec
	fetching    prometheus.Gauge
	fetches     *prometheus.CounterVec
	bytes       prometheus.Counter
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
		notices: prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_satellite_reports_notices_total", Help: "Notices of a policy sent."}),
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ltsp_satellite_reports_commands_total", Help: "Commands for clients by their end.",
		}, []string{"result"}),
		fetching: prometheus.NewGauge(prometheus.GaugeOpts{Name: "ltsp_satellite_reports_fetching", Help: "Open fetch streams."}),
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ltsp_satellite_reports_fetches_total", Help: "Fetches of clients.",
		}, []string{"result"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_satellite_reports_fetched_bytes_total", Help: "Bytes of blobs sent to clients."}),
	}
	for _, k := range []string{"hello", "report", "failure", "result", "event", "fetch"} {
		m.lines[k] = lines.WithLabelValues(k)
	}
	for _, r := range []string{"total", "address"} {
		m.refused.WithLabelValues(r)
	}
	for _, r := range []string{"closed", "handshake", "silent", "line", "token", "rate", "replaced", "busy"} {
		m.ended.WithLabelValues(r)
	}
	for _, r := range []string{"answered", "absent", "lost", "busy", "timeout", "refused"} {
		m.commands.WithLabelValues(r)
	}
	for _, r := range []string{"ok", "refused", "error"} {
		m.fetches.WithLabelValues(r)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.connections, m.refused, lines, m.ended, m.notices, m.commands, m.fetching, m.fetches, m.bytes} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of reports: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) fetched(result string) { m.fetches.WithLabelValues(result).Inc() }

func (m *metrics) commanded(err error) {
	result := "refused"
	switch {
	case err == nil:
		result = "answered"
	case errors.Is(err, ErrNotConnected):
		result = "absent"
	case errors.Is(err, ErrLost):
		result = "lost"
	case errors.Is(err, ErrBusy):
		result = "busy"
	case errors.Is(err, context.DeadlineExceeded):
		result = "timeout"
	}
	m.commands.WithLabelValues(result).Inc()
}
