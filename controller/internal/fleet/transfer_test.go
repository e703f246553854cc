package fleet_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
)

func TestTransferCheck(t *testing.T) {
	tests := []struct {
		name string
		t    fleet.Transfer
		ok   bool
	}{
		{"nothing said", fleet.Transfer{}, true},
		{"all said", fleet.Transfer{BytesPerSecond: 250_000, Window: "22:00-06:00", Method: fleet.SyncDelta, LazyWait: fleet.Duration(time.Minute), CompleteOnly: true}, true},
		{"cap that stops all", fleet.Transfer{BytesPerSecond: 100}, false},
		{"window without end", fleet.Transfer{Window: "22:00"}, false},
		{"window of no length", fleet.Transfer{Window: "22:00-22:00"}, false},
		{"window after midnight", fleet.Transfer{Window: "25:00-26:00"}, false},
		{"a decision as a policy", fleet.Transfer{Method: fleet.SyncWait}, false},
		{"unknown method", fleet.Transfer{Method: "pigeon"}, false},
		{"negative wait", fleet.Transfer{LazyWait: -1}, false},
		{"endless wait", fleet.Transfer{LazyWait: fleet.Duration(time.Hour)}, false},
	}
	for _, test := range tests {
		site := fleet.Site{Name: "a", Transfer: test.t}
		err := site.Check(newLibrary())
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
		if err != nil && !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s: %v is no ErrInvalid", test.name, err)
		}
	}
}

func TestTraceMerge(t *testing.T) {
	const page = 64 << 10
	var trace fleet.Trace
	if !trace.Merge(1, []fleet.TraceRange{{Offset: 10*page + 5, Length: 100}, {Offset: 11 * page, Length: page}, {Offset: 0, Length: 4096}}) {
		t.Error("nothing changed")
	}
	trace.Merge(2, []fleet.TraceRange{{Offset: 0, Length: 3 * page}, {Offset: 10 * page, Length: 2 * page}, {Offset: 1 << 60, Length: 1}, {Offset: 5, Length: 0}})
	want := []fleet.TraceRange{{Offset: 10 * page, Length: 2 * page}, {Offset: 0, Length: 3 * page}}
	if diff := cmp.Diff(want, trace.Ranges); diff != "" || trace.Boots != 3 {
		t.Errorf("after %d boots (-want +got):\n%s", trace.Boots, diff)
	}
	var many []fleet.TraceRange
	for i := range uint64(2 * fleet.MaxTraceRanges) {
		many = append(many, fleet.TraceRange{Offset: (i*2 + 100) * page, Length: 1})
	}
	trace.Merge(fleet.MaxTraceBoots, many)
	if len(trace.Ranges) > fleet.MaxTraceRanges || len(trace.Ranges) < fleet.MaxTraceRanges-2 {
		t.Errorf("%d ranges", len(trace.Ranges))
	}
	if trace.Merge(1, want) {
		t.Error("a boot too many was taken in")
	}
}
