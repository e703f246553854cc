//go:build component

package lzma_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/lzma"
)

// benchPresets are those whose speed is compared.
var benchPresets = []struct {
	level   int
	extreme bool
}{{0, false}, {3, false}, {6, false}, {9, true}}

// BenchmarkEncodeAgainst prints the CPU time for 12 MiB of a program as a multiple of xz's (metric "xC").
func BenchmarkEncodeAgainst(b *testing.B) {
	data := tools(b, 12<<20)
	file := filepath.Join(b.TempDir(), "data")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		b.Fatal(err)
	}
	for _, v := range benchPresets {
		p := preset(b, v.level, v.extreme)
		b.Run(fmt.Sprintf("%d-%t", v.level, v.extreme), func(b *testing.B) {
			e := encoder(b, p)
			var out []byte
			against(b, len(data), func() (err error) {
				out, err = e.AppendLZMA2(out[:0], data)
				return err
			}, "-zkcT1", "--format=raw", lzma2(p), file)
		})
	}
}

// BenchmarkDecodeAgainst does so for unpacking a program, and text.
func BenchmarkDecodeAgainst(b *testing.B) {
	for name, data := range map[string][]byte{"program": tools(b, 12<<20), "text": text(12 << 20)} {
		packed, err := lzma.AppendXZ(nil, lzma.Stream{Check: lzma.CheckCRC32, Params: preset(b, 6, false)}, data)
		if err != nil {
			b.Fatal(err)
		}
		file := filepath.Join(b.TempDir(), "data.xz")
		if err := os.WriteFile(file, packed, 0o600); err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			against(b, len(data), func() error {
				_, err := lzma.DecodeXZ(packed, int64(len(data)))
				return err
			}, "-dkcT1", file)
		})
	}
}

// against runs ours and xz by turns.
func against(b *testing.B, size int, ours func() error, options ...string) {
	b.Helper()
	var mine, theirs time.Duration
	b.SetBytes(int64(size))
	for b.Loop() {
		b.StopTimer()
		theirs += xzTime(b, options...)
		b.StartTimer()
		start := used(b)
		if err := ours(); err != nil {
			b.Fatal(err)
		}
		mine += used(b) - start
	}
	b.ReportMetric(mine.Seconds()/theirs.Seconds(), "xC")
	b.ReportMetric(float64(b.N*size)/mine.Seconds()/1e6, "cpuMB/s")
}

// xzTime returns the CPU time that xz takes.
func xzTime(b *testing.B, options ...string) time.Duration {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), "xz", options...)
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

// used returns the CPU time of this process.
func used(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
