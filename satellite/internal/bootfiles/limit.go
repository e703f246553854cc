package bootfiles

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// connLimit bounds connections. It hooks into http.Server.ConnState instead of wrapping connections, which would cost sendfile.
type connLimit struct {
	total, perAddr int
	metrics        *metrics

	mu    sync.Mutex
	conns map[net.Conn]netip.Addr // those that count
	addrs map[netip.Addr]int
}

func (l *connLimit) watch(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if reason := l.admit(c); reason != "" {
			l.metrics.refused.WithLabelValues(reason).Inc()
			_ = c.Close() // its goroutine ends at the first read
		}
	case http.StateClosed, http.StateHijacked:
		l.release(c)
	}
}

// admit counts the connection, or returns the limit that is reached.
func (l *connLimit) admit(c net.Conn) string {
	addr := addrOf(c.RemoteAddr().String())
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.conns) >= l.total:
		return "total"
	case l.addrs[addr] >= l.perAddr:
		return "address"
	}
	l.conns[c] = addr
	l.addrs[addr]++
	l.metrics.connections.Inc()
	return ""
}

func (l *connLimit) release(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	addr, ok := l.conns[c]
	if !ok {
		return
	}
	delete(l.conns, c)
	l.metrics.connections.Dec()
	if l.addrs[addr]--; l.addrs[addr] == 0 {
		delete(l.addrs, addr)
	}
}

type metrics struct {
	connections prometheus.Gauge
	refused     *prometheus.CounterVec
	requests    map[kind]prometheus.Counter
	delivered   map[kind]prometheus.Counter
	sent        prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ltsp_satellite_http_requests_total", Help: "HTTP requests by kind of file.",
	}, []string{"kind"})
	delivered := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ltsp_satellite_http_delivered_total", Help: "Boot files that went out whole by HTTP.",
	}, []string{"kind"})
	m := &metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "ltsp_satellite_http_connections", Help: "Open HTTP connections."}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ltsp_satellite_http_refused_total", Help: "HTTP connections closed at once, by the limit that was reached.",
		}, []string{"reason"}),
		requests: make(map[kind]prometheus.Counter), delivered: make(map[kind]prometheus.Counter),
		sent: prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_satellite_http_sent_bytes_total", Help: "Bytes of boot files handed to the kernel."}),
	}
	for _, k := range kinds() {
		m.requests[k], m.delivered[k] = requests.WithLabelValues(string(k)), delivered.WithLabelValues(string(k))
	}
	for _, reason := range []string{"total", "address"} {
		m.refused.WithLabelValues(reason)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.connections, m.refused, requests, delivered, m.sent} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of boot files: %w", err)
		}
	}
	return m, nil
}
