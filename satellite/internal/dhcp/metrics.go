package dhcp

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

const metricPrefix = "ltsp_satellite_dhcp_"

// metrics are those of the package comment.
type metrics struct {
	packets, replies, dropped                 *prometheus.CounterVec
	full, conflicts, sendErrors, commitErrors prometheus.Counter
	sockets                                   prometheus.Gauge
	inFlight                                  prometheus.GaugeFunc
	leases                                    leaseCollector
}

func newMetrics(counts func() map[string]lease.Count, inFlight func() float64) *metrics {
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricPrefix + name, Help: help}, []string{label})
	}
	one := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: metricPrefix + name, Help: help})
	}
	return &metrics{
		packets:      vec("packets_total", "Usable DHCP packets received.", "type"),
		replies:      vec("replies_total", "DHCP replies sent.", "type"),
		dropped:      vec("dropped_total", "Packets that got no answer.", "reason"),
		full:         one("range_full_total", "Discovers that found no free address."),
		conflicts:    one("conflicts_total", "Addresses quarantined because somebody else uses them."),
		sendErrors:   one("send_errors_total", "Replies that could not be sent."),
		commitErrors: one("commit_errors_total", "Lease records that could not be made durable."),
		sockets:      prometheus.NewGauge(prometheus.GaugeOpts{Name: metricPrefix + "sockets", Help: "Interfaces that are served."}),
		inFlight: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: metricPrefix + "in_flight", Help: "Answers waiting for the disk, a probe or the network.",
		}, inFlight),
		leases: leaseCollector{
			counts: counts,
			leases: prometheus.NewDesc(metricPrefix+"leases", "Addresses by state.", []string{"subnet", "state"}, nil),
			size:   prometheus.NewDesc(metricPrefix+"range_size", "Addresses in the range.", []string{"subnet"}, nil),
		},
	}
}

func (m *metrics) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{
		m.packets, m.replies, m.dropped, m.full, m.conflicts, m.sendErrors, m.commitErrors, m.sockets, m.inFlight, m.leases,
	} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register DHCP metrics: %w", err)
		}
	}
	return nil
}

// leaseCollector counts the table when it is asked.
type leaseCollector struct {
	counts       func() map[string]lease.Count
	leases, size *prometheus.Desc
}

// Describe is prometheus.Collector's.
func (c leaseCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.leases
	ch <- c.size
}

// Collect is prometheus.Collector's.
func (c leaseCollector) Collect(ch chan<- prometheus.Metric) {
	for subnet, n := range c.counts() {
		gauge := func(d *prometheus.Desc, v int, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), append([]string{subnet}, labels...)...)
		}
		gauge(c.leases, n.Bound, string(lease.Bound))
		gauge(c.leases, n.Offered, string(lease.Offered))
		gauge(c.leases, n.Declined, string(lease.Declined))
		gauge(c.size, n.Size)
	}
}
