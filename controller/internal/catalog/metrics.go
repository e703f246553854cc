package catalog

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	publishes      *prometheus.CounterVec
	publishSeconds prometheus.Histogram
	stored         prometheus.Counter
	storedBytes    prometheus.Counter
	damaged        prometheus.Counter
	collected      prometheus.Counter
	collectedBytes prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_controller_" + name, Help: help})
	}
	m := &metrics{
		publishes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ltsp_controller_publishes_total", Help: "Drafts published, by result: created, same, refused or failed.",
		}, []string{"result"}),
		publishSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ltsp_controller_publish_seconds", Help: "Time that verifying and publishing a draft took.", Buckets: []float64{.1, .3, 1, 3, 10, 30, 100, 300},
		}),
		stored:         counter("chunks_stored_total", "Chunks that were uploaded and stored."),
		storedBytes:    counter("chunk_stored_bytes_total", "Bytes of chunks that were uploaded and stored."),
		damaged:        counter("chunks_damaged_total", "Chunks on the disk that were found damaged."),
		collected:      counter("chunks_collected_total", "Chunks removed because no version needed them."),
		collectedBytes: counter("chunk_collected_bytes_total", "Bytes of chunks removed because no version needed them."),
	}
	if reg != nil {
		reg.MustRegister(m.publishes, m.publishSeconds, m.stored, m.storedBytes, m.damaged, m.collected, m.collectedBytes)
	}
	return m
}
