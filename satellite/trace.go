package satellite

import (
	"net/netip"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/nbd"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/trace"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream"
)

// maxTraces is how many boot traces wait for the controller; further ones are dropped.
const maxTraces = 32

// tracer lets the trace room see what NBD clients read.
type tracer struct {
	store *imagestore.Store
	book  *trace.Book
}

// newTracer sends what it records to out.
func newTracer(store *imagestore.Store, out chan<- upstream.BootTrace) tracer {
	return tracer{store, trace.New(trace.Config{Done: func(t trace.Trace) {
		b := upstream.BootTrace{ID: t.Version, Boots: 1}
		for _, r := range t.Ranges {
			b.Ranges = append(b.Ranges, upstream.TraceRange(r))
		}
		select {
		case out <- b:
		default:
		}
	}})}
}

// record implements nbd.Config.Record.
func (t tracer) record(export string, client netip.AddrPort) nbd.Recorder {
	for _, v := range t.store.List() {
		if v.DiskBytes > 0 && v.Manifest.ExportName() == export {
			if r := t.book.Open(v.ID, v.DiskBytes, client.Addr()); r != nil {
				return r
			}
			return nil
		}
	}
	return nil
}
