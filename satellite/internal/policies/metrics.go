package policies

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct{ fetches *prometheus.CounterVec }

func newMetrics(reg prometheus.Registerer, k *Keeper) (*metrics, error) {
	m := &metrics{fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ltsp_satellite_policies_fetches_total", Help: "Policy archives fetched.",
	}, []string{"result"})}
	for _, r := range []string{"ok", "error"} {
		m.fetches.WithLabelValues(r)
	}
	if reg == nil {
		return m, nil
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ltsp_satellite_policies_" + name, Help: help}, value)
	}
	for _, c := range []prometheus.Collector{
		m.fetches,
		gauge("archives", "Policy archives on the disk.", func() float64 {
			k.mu.Lock()
			defer k.mu.Unlock()
			return float64(len(k.have))
		}),
		gauge("missing", "Archives of the wanted policy that are not here.", func() float64 { return float64(k.Status().Missing) }),
		gauge("revision", "Revision of the desired state whose policy is in force.", func() float64 { return float64(k.Status().Revision) }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of policies: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) fetched(err error) {
	if err != nil {
		m.fetches.WithLabelValues("error").Inc()
		return
	}
	m.fetches.WithLabelValues("ok").Inc()
}
