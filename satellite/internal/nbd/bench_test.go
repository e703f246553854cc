//go:build component

package nbd

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkBootStorm plays traces against our server and nbdkit -t 1 in turn, some rounds, and prints medians and ratios.
// It says little about MB/s, which depend on who else uses the machine, but CPU per GB and ratios hold.
func BenchmarkBootStorm(b *testing.B) {
	const size = 700 << 20
	file := diskFile(b, size)
	for _, tr := range []struct {
		name  string
		trace []access
	}{{"desktop", stormTrace(size)}, {"minimal", minimalTrace(size)}, {"random4k", makeTrace(size, 5000, []int{4}, []int{1}, 1<<10)}} {
		for _, n := range []int{30, 200} {
			b.Run(tr.name+"/"+strconv.Itoa(n), func(b *testing.B) { storm(b, file, tr.trace, n) })
		}
	}
}

func storm(b *testing.B, file string, trace []access, n int) {
	const rounds, length = 3, 1500 * time.Millisecond
	servers := []*server{startOurs(b, file), startNbdkit(b, file)}
	results := make([][]loadResult, len(servers))
	for range rounds {
		for i, s := range servers {
			conns := dialMany(b, s.addr, "", n, 5)
			before := s.cpu(b)
			r, err := runLoad(conns, trace, length)
			if err != nil {
				b.Fatalf("%s: %v", s.name, err)
			}
			r.cpu = s.cpu(b) - before
			results[i] = append(results[i], r)
			for _, c := range conns {
				_ = c.Close()
			}
		}
	}
	report(b, servers, results)
}

// report prints one line per server and the ratios of the first to the second as the benchmark's metrics.
func report(b *testing.B, servers []*server, results [][]loadResult) {
	columns := []struct {
		unit string
		of   func(loadResult) float64
	}{
		{"MB/s", func(r loadResult) float64 { return float64(r.bytes) / 1e6 / r.elapsed.Seconds() }},
		{"reads/s", func(r loadResult) float64 { return float64(r.reads) / r.elapsed.Seconds() }},
		{"cpu-s/GB", func(r loadResult) float64 { return r.cpu.Seconds() / (float64(r.bytes) / 1e9) }},
		{"cpu-us/read", func(r loadResult) float64 { return float64(r.cpu.Microseconds()) / float64(r.reads) }},
		{"p99-us", func(r loadResult) float64 { return float64(r.p99.Microseconds()) }},
		{"most/least", func(r loadResult) float64 { return float64(r.most) / float64(max(r.least, 1)) }},
	}
	medians := make([][]float64, len(servers))
	for i := range servers {
		var line strings.Builder
		for _, c := range columns {
			var v []float64
			for _, r := range results[i] {
				v = append(v, c.of(r))
			}
			slices.Sort(v)
			medians[i] = append(medians[i], v[len(v)/2])
			fmt.Fprintf(&line, "  %s %.3g", c.unit, v[len(v)/2])
		}
		b.Logf("%-12s%s", servers[i].name, line.String())
	}
	b.ReportMetric(0, "ns/op")
	for k, c := range columns {
		b.ReportMetric(medians[0][k]/medians[1][k], c.unit+"-ratio")
	}
}

// BenchmarkConnect connects many clients in one instant, several times, and prints the median and the longest time until all
// of them have an export.
func BenchmarkConnect(b *testing.B) {
	const clients, rounds = 500, 15
	file := diskFile(b, 1<<20)
	servers := []*server{startOurs(b, file), startNbdkit(b, file)}
	medians := make([]time.Duration, len(servers))
	for i, s := range servers {
		var times []time.Duration
		before := s.cpu(b)
		for range rounds {
			began := time.Now()
			conns := dialMany(b, s.addr, "", clients, clients)
			times = append(times, time.Since(began))
			for _, c := range conns {
				_ = c.Close()
			}
		}
		slices.Sort(times)
		medians[i] = times[len(times)/2]
		cpu := (s.cpu(b) - before) / rounds / clients
		b.Logf("%-12s  %d clients ready: median %v, longest %v, server CPU %v per client", s.name, clients, medians[i], times[len(times)-1], cpu)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(medians[0].Milliseconds()), "ms")
	b.ReportMetric(float64(medians[0])/float64(medians[1]), "ratio")
}

// BenchmarkIdle prints what idle clients cost: anonymous memory and threads.
func BenchmarkIdle(b *testing.B) {
	const clients = 500
	file := diskFile(b, 1<<20)
	for i, s := range []*server{startOurs(b, file), startNbdkit(b, file)} {
		before, _ := s.memory(b)
		conns := dialMany(b, s.addr, "", clients, 50)
		for _, c := range conns {
			if got := (&client{b, c}).read(0, 4096); len(got) != 4096 {
				b.Fatal("short read")
			}
		}
		after, threads := s.memory(b)
		b.Logf("%-12s  %d idle clients: %d kB anonymous, before them %d kB, %d threads", s.name, clients, after, before, threads)
		if i == 0 {
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(after), "kB")
			b.ReportMetric(float64(after-before)/clients, "kB/client")
			b.ReportMetric(float64(threads), "threads")
		}
	}
}
