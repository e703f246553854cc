package upstream

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	connected                           prometheus.Gauge
	sessions, failures, clients, events prometheus.Counter
	renewals                            *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, c *Client) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_satellite_upstream_" + name, Help: help})
	}
	m := &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{Name: "ltsp_satellite_upstream_connected", Help: "1 while the stream to the controller is up."}),
		sessions:  counter("sessions_total", "Streams that the controller answered."),
		failures:  counter("failures_total", "Attempts and streams that failed."),
		clients:   counter("client_reports_total", "Client reports sent."),
		events:    counter("client_events_total", "Client events sent."),
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ltsp_satellite_upstream_renewals_total",
			Help: "Certificate renewals."}, []string{"result"}),
	}
	if reg == nil {
		return m, nil
	}
	expiry := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ltsp_satellite_upstream_certificate_expiry_seconds",
		Help: "Unix time at which the certificate expires."}, func() float64 {
		if leaf := c.cfg.Identity.Holder().Leaf(); leaf != nil {
			return float64(leaf.NotAfter.Unix())
		}
		return 0
	})
	for _, x := range []prometheus.Collector{m.connected, expiry, m.sessions, m.failures, m.clients, m.events, m.renewals} {
		if err := reg.Register(x); err != nil {
			return nil, fmt.Errorf("register upstream metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) online(is bool) {
	m.connected.Set(0)
	if is {
		m.connected.Set(1)
	}
}

func (m *metrics) answered()           { m.sessions.Inc() }
func (m *metrics) failed()             { m.failures.Inc() }
func (m *metrics) renewed(r string)    { m.renewals.WithLabelValues(r).Inc() }
func (m *metrics) clientReports(n int) { m.clients.Add(float64(n)) }
func (m *metrics) clientEvents(n int)  { m.events.Add(float64(n)) }
