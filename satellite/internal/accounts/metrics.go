package accounts

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	updates  prometheus.Counter
	failures *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, w *Watcher) (*metrics, error) {
	m := &metrics{
		updates: prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_satellite_accounts_updates_total", Help: "Accounts read that were others than before."}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ltsp_satellite_accounts_failures_total", Help: "Attempts to get the accounts that failed.",
		}, []string{"state"}),
	}
	for _, s := range []State{Unreachable, HostKey, Denied, Failed} {
		m.failures.WithLabelValues(string(s))
	}
	if reg == nil {
		return m, nil
	}
	one := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge := func(name, help string, value func(Status) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ltsp_satellite_accounts_" + name, Help: help}, func() float64 { return value(w.Status()) })
	}
	for _, c := range []prometheus.Collector{
		m.updates, m.failures,
		gauge("ok", "1 while the accounts are watched.", func(s Status) float64 { return one(s.State == OK) }),
		gauge("held", "1 while the login host's list is much shorter than the known one and does not count yet.", func(s Status) float64 { return one(s.Held) }),
		gauge("users", "Ordinary users that are known.", func(s Status) float64 { return float64(s.Users) }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of accounts: %w", err)
		}
	}
	return m, nil
}
