package match

import (
	"bytes"
	"context"
	"testing"
)

// The inputs on which a suffix array with bsdiff's search degenerates, and an ordinary one.
func BenchmarkDiff(b *testing.B) {
	const mib = 1 << 20
	zeros := make([]byte, 50*mib)
	big := random(1, 64*mib)
	sparse := func(seed uint64) []byte { // runs of zeros between short records
		out := make([]byte, 32*mib)
		for i, r := 0, random(seed, mib); i+4096 < len(out); i += 512 + int(r[i>>6])*16 {
			copy(out[i:], r[i>>6:min(i>>6+24, len(r))])
		}
		return out
	}
	for _, bm := range []struct {
		name      string
		ref, data []byte
	}{
		{"Edits", big, edited(big, 40, 1)},
		{"Unlike", big, random(2, 64*mib)},
		{"Zeros", zeros, zeros},
		{"ZerosUnlike", big[:16*mib], zeros},
		{"ZerosToNoise", zeros, big},
		{"SparseRecords", sparse(3), sparse(4)},
		{"Periodic", bytes.Repeat([]byte{1, 2, 3, 4}, 4*mib), bytes.Repeat([]byte{1, 2, 3, 4, 5}, 4*mib)},
		{"PeriodicShort", join(bytes.Repeat([]byte("abcd"), 100), big[:mib], bytes.Repeat([]byte("abcd"), 300)), bytes.Repeat([]byte("abcd"), 4*mib)},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.SetBytes(int64(len(bm.data)))
			ix := NewIndex(bm.ref, Options{})
			ops := 0
			for b.Loop() {
				got, err := ix.Diff(context.Background(), bm.data)
				if err != nil {
					b.Fatal(err)
				}
				ops = len(got)
			}
			b.ReportMetric(float64(ops), "ops")
		})
	}
}

func BenchmarkIndex(b *testing.B) {
	ref := random(1, 32<<20)
	b.SetBytes(int64(len(ref)))
	for b.Loop() {
		NewIndex(ref, Options{})
	}
}
