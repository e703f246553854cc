package satellite

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/encoder"
)

// recompression is how fast this machine compresses blocks of an image again, which is what rebuilding from a delta takes. The zero value does
// not know.
type recompression struct{ perSecond atomic.Uint64 }

// bytesPerSecond of all processors together; 0: not known yet.
func (r *recompression) bytesPerSecond() uint64 { return r.perSecond.Load() }

// sampleBytes is how much is compressed to find out.
const sampleBytes = 1 << 20

// measure compresses made-up data once, on one processor, with the encoder of mksquashfs's zstd default, and waits for the end of ctx.
func (r *recompression) measure(ctx context.Context) error {
	if n := compressOnce(); n > 0 {
		r.perSecond.Store(n * uint64(runtime.GOMAXPROCS(0)))
	}
	<-ctx.Done()
	return ctx.Err()
}

// compressOnce returns bytes a second; 0 if this program has no encoder.
func compressOnce() uint64 {
	settings, err := encoder.ParseSettings(encoder.NameZstd + ":15")
	if err != nil {
		return 0
	}
	e, err := encoder.New(settings)
	if err != nil {
		return 0
	}
	defer e.Close()
	data := programLike(sampleBytes)
	start := time.Now()
	var out []byte
	for block := data; len(block) > 0; block = block[min(settings.BlockSize, len(block)):] {
		if out, _, err = e.Block(out[:0], block[:min(settings.BlockSize, len(block))]); err != nil {
			return 0
		}
	}
	return uint64(sampleBytes / max(time.Since(start).Seconds(), 1e-6))
}

// programLike makes bytes that compress about as programs do: small numbers and addresses near each other, with repetitions.
func programLike(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 0, n+64)
	for addr := uint64(0x400000); len(b) < n; {
		if len(b) > 1000 && rng.IntN(3) == 0 {
			at := len(b) - 1 - rng.IntN(min(len(b)-1, 60_000))
			b = append(b, b[at:min(at+4+rng.IntN(40), len(b))]...)
			continue
		}
		addr += uint64(rng.IntN(4096))
		b = binary.LittleEndian.AppendUint32(b, uint32(addr))
		b = append(b, byte(rng.IntN(16)), byte(rng.Uint32()))
	}
	return b[:n]
}
