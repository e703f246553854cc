package deltas

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	made    *prometheus.CounterVec
	seconds prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, m *Maker) *metrics {
	gauge := func(name, help string, read func() int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ltsp_controller_" + name, Help: help}, func() float64 {
			m.mu.Lock()
			defer m.mu.Unlock()
			return float64(read())
		})
	}
	out := &metrics{
		made: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ltsp_controller_deltas_made_total", Help: "Deltas between versions that were made, by result: ok or failed.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ltsp_controller_delta_make_seconds", Help: "Time that making a delta took.", Buckets: []float64{1, 3, 10, 30, 60, 120, 300, 600, 1800},
		}),
	}
	if reg != nil {
		reg.MustRegister(out.made, out.seconds,
			gauge("deltas_bytes", "Bytes of the deltas that are kept.", m.bytesLocked),
			gauge("deltas_queued", "Deltas that wait to be made.", func() int64 { return int64(len(m.queue)) }))
	}
	return out
}
