//go:build e2e

package integration

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/initrd"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testimage"
)

// BenchmarkInitrd makes both initrds for both of the distribution's kernels and tells their sizes.
func BenchmarkInitrd(b *testing.B) {
	agent, err := os.ReadFile(filepath.Join(os.Getenv("LTSP_BIN"), "ltsp-agent"))
	if err != nil {
		b.Fatal(err)
	}
	for _, flavour := range []string{testimage.Stock, testimage.Cloud} {
		kernel, err := testimage.Kernel(b.Context(), testimage.Config{CacheDir: os.Getenv("LTSP_CACHE"), Flavour: flavour, Log: b.Logf})
		if err != nil {
			b.Fatal(err)
		}
		for _, set := range []initrd.Set{initrd.Full, initrd.School} {
			b.Run(flavour+"/"+set.String(), func(b *testing.B) {
				for b.Loop() {
					stats, err := initrd.Build(b.Context(), os.DirFS(kernel.Root), initrd.Options{Set: set, KernelRelease: kernel.Release, Agent: agent, Firmware: true}, io.Discard)
					if err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(float64(stats.Modules), "modules")
					b.ReportMetric(float64(stats.RawBytes), "raw-bytes")
					b.ReportMetric(float64(stats.Bytes), "bytes")
				}
			})
		}
	}
}
