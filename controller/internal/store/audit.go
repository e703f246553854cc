package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
)

// AuditEntry is one change. Before and After are JSON objects with the touched records by KIND/KEY; empty if there were none.
type AuditEntry struct {
	Sequence uint64          `json:"sequence"`
	Time     time.Time       `json:"time"`
	Actor    string          `json:"actor"`
	Action   string          `json:"action"`
	Object   string          `json:"object"`
	Before   json.RawMessage `json:"before,omitempty"`
	After    json.RawMessage `json:"after,omitempty"`
	// Hash is SHA-256 over the previous entry's hash (32 zero bytes for the first) and this entry's JSON, as stored, without the hash.
	Hash fleet.Hash `json:"-"`
}

// Keys of the meta bucket.
const (
	metaSchema    = "schema"
	metaAuditHead = "audit_head" // sequence (8 bytes) and hash of the newest entry
)

// An audit entry is stored as its hash (32 bytes) and its JSON.
const hashBytes = sha256.Size

func chainHash(previous fleet.Hash, body []byte) fleet.Hash {
	h := sha256.New()
	h.Write(previous[:])
	h.Write(body)
	return fleet.Hash(h.Sum(nil))
}

func (tx *Tx) auditHead() (uint64, fleet.Hash) {
	raw := tx.bolt.Bucket([]byte(bucketMeta)).Get([]byte(metaAuditHead))
	if len(raw) != 8+hashBytes {
		return 0, fleet.Hash{}
	}
	return binary.BigEndian.Uint64(raw), fleet.Hash(raw[8:])
}

func (tx *Tx) appendAudit(change *Change, now time.Time) error {
	sequence, head := tx.auditHead()
	sequence++
	entry := AuditEntry{Sequence: sequence, Time: now.UTC(), Actor: change.Actor, Action: change.Action, Object: change.Object}
	var err error
	if entry.Before, err = states(tx.touched, tx.before); err != nil {
		return fmt.Errorf("write audit entry: %w", err)
	}
	if entry.After, err = states(tx.touched, tx.after); err != nil {
		return fmt.Errorf("write audit entry: %w", err)
	}
	body, err := json.Marshal(entry)
	if err != nil {
		return fmt.Errorf("write audit entry: %w", err)
	}
	hash := chainHash(head, body)
	key := binary.BigEndian.AppendUint64(nil, sequence)
	if err := tx.bolt.Bucket([]byte(bucketAudit)).Put(key, append(hash[:], body...)); err != nil {
		return fmt.Errorf("write audit entry: %w", err)
	}
	if err := tx.bolt.Bucket([]byte(bucketMeta)).Put([]byte(metaAuditHead), append(key, hash[:]...)); err != nil {
		return fmt.Errorf("write audit entry: %w", err)
	}
	return nil
}

// states makes one JSON object of the records that were there; nil if none was.
func states(names []string, by map[string]json.RawMessage) (json.RawMessage, error) {
	there := make(map[string]json.RawMessage)
	for _, name := range names {
		if raw := by[name]; raw != nil {
			there[name] = raw
		}
	}
	if len(there) == 0 {
		return nil, nil
	}
	return json.Marshal(there)
}

func decodeAudit(raw []byte) (AuditEntry, []byte, error) {
	var e AuditEntry
	if len(raw) < hashBytes {
		return e, nil, fmt.Errorf("%w: an entry of %d bytes", ErrAudit, len(raw))
	}
	body := raw[hashBytes:]
	if err := json.Unmarshal(body, &e); err != nil {
		return e, nil, fmt.Errorf("%w: %v", ErrAudit, err)
	}
	e.Hash = fleet.Hash(raw[:hashBytes])
	return e, body, nil
}

// ListAudit returns up to limit entries below sequence before (0: from the newest), the newest first, whose object begins with object.
func (tx *Tx) ListAudit(before uint64, limit int, object string) ([]AuditEntry, error) {
	var list []AuditEntry
	c := tx.bolt.Bucket([]byte(bucketAudit)).Cursor()
	k, raw := c.Last()
	if before > 0 {
		if k, _ = c.Seek(binary.BigEndian.AppendUint64(nil, before)); k == nil {
			k, raw = c.Last()
		} else {
			k, raw = c.Prev()
		}
	}
	for ; k != nil && len(list) < limit; k, raw = c.Prev() {
		e, _, err := decodeAudit(raw)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(e.Object, object) {
			list = append(list, e)
		}
	}
	return list, nil
}

// VerifyAudit checks the chain from the first entry to the newest. ErrAudit names the first that does not fit. It reads in slices, so
// that writers are not held up.
func (s *Store) VerifyAudit(ctx context.Context) error {
	var next uint64 = 1
	var head fleet.Hash
	for {
		done := false
		err := s.View(ctx, func(tx *Tx) (err error) {
			next, head, done, err = tx.verifySlice(next, head)
			return err
		})
		if err != nil || done {
			return err
		}
	}
}

// verifySlice is how many entries are checked in one transaction.
const verifySlice = 1000

func (tx *Tx) verifySlice(next uint64, head fleet.Hash) (uint64, fleet.Hash, bool, error) {
	c := tx.bolt.Bucket([]byte(bucketAudit)).Cursor()
	k, raw := c.Seek(binary.BigEndian.AppendUint64(nil, next))
	for range verifySlice {
		if k == nil {
			return next, head, true, tx.verifyHead(next-1, head)
		}
		e, body, err := decodeAudit(raw)
		if err != nil {
			return next, head, true, err
		}
		want := chainHash(head, body)
		if e.Sequence != next || !bytes.Equal(k, binary.BigEndian.AppendUint64(nil, next)) || e.Hash != want {
			return next, head, true, fmt.Errorf("%w: at entry %d", ErrAudit, next)
		}
		next, head = next+1, want
		k, raw = c.Next()
	}
	return next, head, false, nil
}

func (tx *Tx) verifyHead(last uint64, head fleet.Hash) error {
	if sequence, hash := tx.auditHead(); sequence != last || hash != head {
		return fmt.Errorf("%w: it ends at entry %d, and should at %d", ErrAudit, last, sequence)
	}
	return nil
}
