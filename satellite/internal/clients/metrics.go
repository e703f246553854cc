package clients

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	registry *Registry
	clients  *prometheus.Desc
	dropped  prometheus.Counter
	boots    prometheus.Counter
	duration prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, r *Registry) (*metrics, error) {
	m := &metrics{
		registry: r,
		clients:  prometheus.NewDesc("ltsp_satellite_clients", "Clients known, by state.", []string{"state"}, nil),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ltsp_satellite_clients_dropped_total", Help: "Clients that had to make room for others.",
		}),
		boots: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ltsp_satellite_client_boots_total", Help: "Boots that began.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ltsp_satellite_client_boot_duration_seconds", Help: "From the first packet of a boot to the first healthy report.",
			Buckets: []float64{5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600},
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m, m.dropped, m.boots, m.duration} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of clients: %w", err)
		}
	}
	return m, nil
}

// Describe is prometheus.Collector's.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) { ch <- m.clients }

// Collect is prometheus.Collector's.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for state, n := range m.registry.Counts() {
		ch <- prometheus.MustNewConstMetric(m.clients, prometheus.GaugeValue, float64(n), string(state))
	}
}
