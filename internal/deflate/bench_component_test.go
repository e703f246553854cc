//go:build component

package deflate_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/deflate"
)

// BenchmarkAgainst prints the time for 8 MiB of mixed data as a multiple of the CPU time of the C program (metric "xC").
func BenchmarkAgainst(b *testing.B) {
	data := mixed(8 << 20)
	file := filepath.Join(b.TempDir(), "data")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		b.Fatal(err)
	}
	z := newZlib(b)
	for _, v := range []deflate.Variant{deflate.GNUGzip, deflate.Zlib} {
		for _, level := range []int{1, 3, 6, 9} {
			p := deflate.Params{Variant: v, Level: level, MemLevel: 8, WindowBits: 15}
			b.Run(fmt.Sprintf("%v-%d", v, level), func(b *testing.B) {
				e := encoder(b, p)
				var ours, theirs time.Duration
				var out []byte
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					b.StopTimer()
					if v == deflate.Zlib {
						_, used := z.timed(b, data, p)
						theirs += time.Duration(used)
					} else {
						theirs += gzipTime(b, file, level)
					}
					b.StartTimer()
					start := used(b)
					out, _ = e.Compress(out[:0], data)
					ours += used(b) - start
				}
				b.ReportMetric(float64(ours)/float64(theirs), "xC")
				b.ReportMetric(float64(b.N*len(data))/ours.Seconds()/1e6, "cpuMB/s")
			})
		}
	}
}

// gzipTime returns the CPU time that gzip takes for a file.
func gzipTime(b *testing.B, file string, level int) time.Duration {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), "gzip", "-nc", fmt.Sprintf("-%d", level), file)
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
	return cmd.ProcessState.UserTime()
}

// used returns the CPU time of this process.
func used(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano())
}
