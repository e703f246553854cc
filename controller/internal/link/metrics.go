package link

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	sent     prometheus.Counter
	dropped  prometheus.Counter
	commands prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, connected, outstanding func() float64) *metrics {
	m := &metrics{
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ltsp_controller_states_sent_total", Help: "Desired states sent to satellites.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ltsp_controller_reports_dropped_total", Help: "Client reports and events dropped: malformed, too many in a message, or no room at the site.",
		}),
		commands: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ltsp_controller_commands_sent_total", Help: "Commands to clients that were given to satellites.",
		}),
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ltsp_controller_commands_outstanding", Help: "Commands to clients that have no answer yet.",
	}, outstanding)
	gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ltsp_controller_satellites_connected", Help: "Satellites that have a stream open.",
	}, connected)
	if reg != nil {
		reg.MustRegister(m.sent, m.dropped, m.commands, gauge, waiting)
	}
	return m
}
