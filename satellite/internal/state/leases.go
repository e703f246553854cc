package state

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"go.etcd.io/bbolt"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// leasesBucket holds one JSON lease.Record per address. The key is the address (4 bytes), so a bucket reads in address order.
const leasesBucket = "leases"

// Leases is the durable side of the DHCP leases: a lease.Log in a bbolt database. Safe for concurrent use; one Append is one
// transaction, so many records per call are what makes it fast.
type Leases struct {
	db *bbolt.DB
}

// NewLeases makes sure that the bucket is there. The database stays the caller's, who closes it after the last use.
func NewLeases(db *bbolt.DB) (*Leases, error) {
	err := db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists([]byte(leasesBucket))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create bucket %q: %w", leasesBucket, err)
	}
	return &Leases{db: db}, nil
}

// Append writes the records in one transaction and returns when they are on disk (unless the database was opened with NoSync).
func (l *Leases) Append(ctx context.Context, records []lease.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := l.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(leasesBucket))
		for i := range records {
			if err := putLease(b, &records[i]); err != nil {
				return fmt.Errorf("lease of %s: %w", records[i].Addr, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write %d leases: %w", len(records), err)
	}
	return nil
}

func putLease(b *bbolt.Bucket, r *lease.Record) error {
	if !r.Addr.Is4() {
		return fmt.Errorf("not an IPv4 address")
	}
	key := r.Addr.As4()
	if r.State == lease.Free {
		return b.Delete(key[:])
	}
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return b.Put(key[:], value)
}

// Load reads all records in address order. A record that can't be read is an error: to forget a lease is to give its address twice.
func (l *Leases) Load(f func(lease.Record) error) error {
	return l.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(leasesBucket)).ForEach(func(k, v []byte) error {
			r, err := readLease(k, v)
			if err != nil {
				return fmt.Errorf("lease record with key %x: %w", k, err)
			}
			return f(r)
		})
	})
}

func readLease(k, v []byte) (lease.Record, error) {
	var r lease.Record
	addr, ok := netip.AddrFromSlice(k)
	if !ok || !addr.Is4() {
		return r, fmt.Errorf("key is no IPv4 address")
	}
	if err := json.Unmarshal(v, &r); err != nil {
		return r, err
	}
	if r.Addr != addr {
		return r, fmt.Errorf("record is about %s", r.Addr)
	}
	return r, nil
}
