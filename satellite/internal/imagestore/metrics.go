package imagestore

import (
	"fmt"
	"os"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	damaged prometheus.Counter
	mended  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Store) (*metrics, error) {
	m := &metrics{
		damaged: prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_satellite_images_damaged_total", Help: "Versions that failed their proof."}),
		mended: prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_satellite_images_mended_blocks_total",
			Help: "Hash tree blocks that were damaged and recomputed."}),
	}
	if reg == nil {
		return m, nil
	}
	collect := []prometheus.Collector{m.damaged, m.mended}
	for state, count := range map[string]func() float64{"unproven": s.countUnproven, "verified": s.countVerified, "incoming": s.countIncoming} {
		collect = append(collect, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ltsp_satellite_images_versions",
			Help: "Versions on the disk.", ConstLabels: prometheus.Labels{"state": state}}, count))
	}
	gauge := func(name, help string, f func() float64) {
		collect = append(collect, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	gauge("ltsp_satellite_images_open_handles", "Open handles of exports.", func() float64 { return float64(s.InUse()) })
	gauge("ltsp_satellite_images_disk_free_bytes", "Free space of the file system.", func() float64 { free, _, _ := s.Space(); return float64(free) })
	gauge("ltsp_satellite_images_disk_size_bytes", "Size of the file system.", func() float64 { _, size, _ := s.Space(); return float64(size) })
	for _, c := range collect {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register image store metrics: %w", err)
		}
	}
	return m, nil
}

func (s *Store) countVerified() float64 { return s.count(true) }
func (s *Store) countUnproven() float64 { return s.count(false) }

func (s *Store) count(verified bool) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, v := range s.versions {
		if v.verified == verified {
			n++
		}
	}
	return float64(n)
}

func (s *Store) countIncoming() float64 {
	entries, err := os.ReadDir(s.incomingDir())
	if err != nil {
		return 0
	}
	return float64(len(entries))
}
