package api

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	rpcs       *prometheus.CounterVec
	limited    *prometheus.CounterVec
	enrolments *prometheus.CounterVec
	chunkBytes prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, connections func() float64) *metrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ltsp_controller_" + name, Help: help}, labels)
	}
	m := &metrics{
		rpcs:       vec("rpcs_total", "Calls that have ended, by method and gRPC code.", "method", "code"),
		limited:    vec("rpcs_limited_total", "Calls refused because a limit was reached: identity, put or fetch.", "limit"),
		enrolments: vec("enrolments_total", "Join tokens presented, by result: ok, refused, limited or failed.", "result"),
		chunkBytes: prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_controller_chunk_sent_bytes_total", Help: "Bytes of chunks sent to satellites."}),
	}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ltsp_controller_connections", Help: "Open TLS connections."}, connections)
	if reg != nil {
		reg.MustRegister(m.rpcs, m.limited, m.enrolments, m.chunkBytes, open)
	}
	return m
}
