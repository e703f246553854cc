package nbd

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// refusal is why a connection was closed at once.
type refusal int

const (
	refusedLimit refusal = iota
	refusedAddrLimit
	refusedNot
)

func (r refusal) String() string { return [...]string{"limit", "address_limit", "none"}[r] }

// failure is why a negotiation ended without an export.
type failure int

const (
	failedTimeout failure = iota
	failedProtocol
	failedUnknown
	failedClosed
	failedNot
)

func (f failure) String() string {
	return [...]string{"timeout", "protocol", "unknown_export", "closed", "none"}[f]
}

// metrics collects the counters. Those of the hot path are kept per session and summed when they are asked for, so that
// connections on different processors do not share a cache line.
type metrics struct {
	server       *Server
	accepted     atomic.Uint64
	refused      [refusedNot]atomic.Uint64
	failed       [failedNot]atomic.Uint64
	readFailures atomic.Uint64
	lateReads    atomic.Uint64

	connections, accepts, refusals, failures, requests, requestErrors, readErrors, late, sentBytes *prometheus.Desc
}

// totals is the sum of tallies.
type totals struct {
	reads, others, errors, bytes uint64
}

func (t *totals) add(c *tally) {
	t.reads += c.reads.Load()
	t.others += c.others.Load()
	t.errors += c.errors.Load()
	t.bytes += c.bytes.Load()
}

func newMetrics(s *Server) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("ltsp_satellite_nbd_"+name, help, labels, nil)
	}
	return &metrics{
		server:        s,
		connections:   desc("connections", "Open NBD connections, negotiating ones included."),
		accepts:       desc("connections_total", "Accepted NBD connections."),
		refusals:      desc("refused_connections_total", "NBD connections closed at once because of a limit.", "reason"),
		failures:      desc("failed_negotiations_total", "NBD negotiations that ended without an export.", "reason"),
		requests:      desc("requests_total", "NBD requests.", "command"),
		requestErrors: desc("request_errors_total", "NBD requests answered with an error."),
		readErrors:    desc("read_failures_total", "Reads of an NBD export that failed on the satellite."),
		late:          desc("late_reads_total", "NBD connections ended because what they read had not arrived."),
		sentBytes:     desc("sent_bytes_total", "Payload bytes of NBD reads."),
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		m.connections, m.accepts, m.refusals, m.failures, m.requests, m.requestErrors, m.readErrors, m.late, m.sentBytes,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	open, t := m.server.totals()
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	ch <- prometheus.MustNewConstMetric(m.connections, prometheus.GaugeValue, float64(open))
	counter(m.accepts, m.accepted.Load())
	for r := range m.refused {
		counter(m.refusals, m.refused[r].Load(), refusal(r).String())
	}
	for f := range m.failed {
		counter(m.failures, m.failed[f].Load(), failure(f).String())
	}
	counter(m.requests, t.reads, "read")
	counter(m.requests, t.others, "other")
	counter(m.requestErrors, t.errors)
	counter(m.readErrors, m.readFailures.Load())
	counter(m.late, m.lateReads.Load())
	counter(m.sentBytes, t.bytes)
}

// totals returns the number of open connections and what all connections did since the server began.
func (s *Server) totals() (int, totals) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.retired
	for ss := range s.sessions {
		t.add(&ss.tally)
	}
	return len(s.sessions), t
}
