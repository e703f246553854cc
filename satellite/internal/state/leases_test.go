package state

import (
	"context"
	"encoding/json"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/bbolt"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

var _ lease.Log = (*Leases)(nil)

func openLeases(t testing.TB, path string) (*Leases, *bbolt.DB) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	l, err := NewLeases(db)
	if err != nil {
		t.Fatal(err)
	}
	return l, db
}

func loadLeases(t *testing.T, l *Leases) []lease.Record {
	t.Helper()
	var rs []lease.Record
	if err := l.Load(func(r lease.Record) error { rs = append(rs, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return rs
}

func TestLeasesSurviveReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	l, db := openLeases(t, path)
	when := time.Date(2026, 9, 1, 8, 0, 0, 0, time.UTC)
	one := lease.Record{
		Addr: netip.MustParseAddr("10.0.0.2"), MAC: lease.MAC{2, 0, 0, 0, 0, 1}, ClientID: []byte{1, 0xff}, Hostname: "pc1",
		State: lease.Bound, Since: when, Expires: when.Add(time.Hour),
	}
	two := lease.Record{Addr: netip.MustParseAddr("10.0.0.1"), State: lease.Declined, Since: when, Expires: when}
	gone := lease.Record{Addr: netip.MustParseAddr("10.0.0.3"), State: lease.Bound, Since: when, Expires: when}
	if err := l.Append(t.Context(), []lease.Record{one, gone, two}); err != nil {
		t.Fatal(err)
	}
	gone.State = lease.Free
	later := one
	later.Expires = when.Add(2 * time.Hour)
	if err := l.Append(t.Context(), []lease.Record{gone, one, later}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	l, _ = openLeases(t, path)
	if d := cmp.Diff([]lease.Record{two, later}, loadLeases(t, l), cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("records after reopening (-want +got):\n%s", d)
	}
}

func TestLeasesAppendIsAllOrNothing(t *testing.T) {
	l, _ := openLeases(t, filepath.Join(t.TempDir(), "db"))
	good := lease.Record{Addr: netip.MustParseAddr("10.0.0.2"), State: lease.Bound}
	if err := l.Append(t.Context(), []lease.Record{good, {}}); err == nil {
		t.Fatal("a record without an address was accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Append(ctx, []lease.Record{good}); err == nil {
		t.Error("a cancelled append succeeded")
	}
	if rs := loadLeases(t, l); len(rs) != 0 {
		t.Errorf("half of the records were written: %v", rs)
	}
}

func TestLeasesRefusesDamage(t *testing.T) {
	for name, kv := range map[string][2]string{
		"no JSON":       {"\x0a\x00\x00\x02", "{"},
		"short key":     {"\x0a", "{}"},
		"other address": {"\x0a\x00\x00\x02", `{"addr":"10.0.0.3","state":"bound"}`},
		"bad MAC":       {"\x0a\x00\x00\x02", `{"addr":"10.0.0.2","mac":"zz","state":"bound"}`},
	} {
		t.Run(name, func(t *testing.T) {
			l, db := openLeases(t, filepath.Join(t.TempDir(), "db"))
			if err := db.Update(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte(leasesBucket)).Put([]byte(kv[0]), []byte(kv[1]))
			}); err != nil {
				t.Fatal(err)
			}
			err := l.Load(func(lease.Record) error { return nil })
			if err == nil || !strings.Contains(err.Error(), "lease record") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzReadLease(f *testing.F) {
	f.Add([]byte{10, 0, 0, 2}, []byte(`{"addr":"10.0.0.2","mac":"52:54:00:67:00:10","client_id":"AVI=","state":"bound","since":"2026-09-01T08:00:00Z","expires":"2026-09-01T20:00:00Z"}`))
	f.Add([]byte{10, 0, 0, 3}, []byte(`{"addr":"10.0.0.3","state":"declined"}`))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		r, err := readLease(key, value)
		if err != nil {
			return
		}
		if !r.Addr.Is4() {
			t.Errorf("accepted a record for %s", r.Addr)
		}
		again, err := json.Marshal(r)
		if err != nil {
			return // a time outside the years that JSON can say
		}
		if _, err := readLease(key, again); err != nil {
			t.Errorf("%s does not come back: %v", again, err)
		}
	})
}
