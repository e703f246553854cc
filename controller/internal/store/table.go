package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
)

// Table is the records of one kind within a transaction.
type Table[T any] struct {
	tx   *Tx
	kind Kind
	what string          // the kind as users call it
	site func(*T) string // the site that a record belongs to; nil if to none
	// silent leaves the records out of audit entries, where those of another table say the same.
	silent bool
}

func (t Table[T]) bucket() *bolt.Bucket { return t.tx.bolt.Bucket([]byte(t.kind)) }

// Get returns a record. fleet.ErrNotFound if there is none.
func (t Table[T]) Get(key string) (T, error) {
	var v T
	raw := t.bucket().Get([]byte(key))
	if raw == nil {
		return v, fleet.Errorf(fleet.ErrNotFound, "%s %s not found", t.what, key)
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("decode %s %s: %w", t.kind, key, err)
	}
	return v, nil
}

// Find returns a record, or false if there is none.
func (t Table[T]) Find(key string) (T, bool, error) {
	v, err := t.Get(key)
	if errors.Is(err, fleet.ErrNotFound) {
		return v, false, nil
	}
	return v, err == nil, err
}

// List returns the records whose keys begin with prefix, in the order of their keys.
func (t Table[T]) List(prefix string) ([]T, error) {
	var list []T
	err := t.each(prefix, func(_ string, v T) error {
		list = append(list, v)
		return nil
	})
	return list, err
}

// Count returns how many keys begin with prefix.
func (t Table[T]) Count(prefix string) int {
	n := 0
	c := t.bucket().Cursor()
	for k, _ := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, _ = c.Next() {
		n++
	}
	return n
}

func (t Table[T]) each(prefix string, fn func(key string, v T) error) error {
	c := t.bucket().Cursor()
	for k, raw := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, raw = c.Next() {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("decode %s %s: %w", t.kind, k, err)
		}
		if err := fn(string(k), v); err != nil {
			return err
		}
	}
	return nil
}

// Insert writes a record that must not be there. fleet.ErrExists if it is.
func (t Table[T]) Insert(key string, v T) error {
	if t.bucket().Get([]byte(key)) != nil {
		return fleet.Errorf(fleet.ErrExists, "%s %s already exists", t.what, key)
	}
	return t.Put(key, v)
}

// Put writes a record. Writing what is there already is no change.
func (t Table[T]) Put(key string, v T) error {
	if err := t.tx.mayWrite(t.kind); err != nil {
		return err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", t.kind, key, err)
	}
	old := bytes.Clone(t.bucket().Get([]byte(key)))
	if bytes.Equal(old, raw) {
		return nil
	}
	if err := t.bucket().Put([]byte(key), raw); err != nil {
		return fmt.Errorf("write %s %s: %w", t.kind, key, err)
	}
	t.touch(key, old, raw)
	return nil
}

// Delete removes a record. That it is not there is no error.
func (t Table[T]) Delete(key string) error {
	if err := t.tx.mayWrite(t.kind); err != nil {
		return err
	}
	old := bytes.Clone(t.bucket().Get([]byte(key)))
	if old == nil {
		return nil
	}
	if err := t.bucket().Delete([]byte(key)); err != nil {
		return fmt.Errorf("delete %s %s: %w", t.kind, key, err)
	}
	t.touch(key, old, nil)
	return nil
}

// DeleteAll removes the records whose keys begin with prefix.
func (t Table[T]) DeleteAll(prefix string) error {
	return t.deleteWhile(prefix, func(key []byte) bool { return bytes.HasPrefix(key, []byte(prefix)) })
}

// deleteRange removes the records from a key up to another one, which stays.
func (t Table[T]) deleteRange(from, to string) error {
	return t.deleteWhile(from, func(key []byte) bool { return string(key) < to })
}

func (t Table[T]) deleteWhile(from string, fits func(key []byte) bool) error {
	var keys []string
	c := t.bucket().Cursor()
	for k, _ := c.Seek([]byte(from)); k != nil && fits(k); k, _ = c.Next() {
		keys = append(keys, string(k))
	}
	for _, key := range keys {
		if err := t.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// touch notes a change for the audit entry and the observers.
func (t Table[T]) touch(key string, old, raw []byte) {
	t.tx.kinds[t.kind] = true
	for _, state := range [][]byte{old, raw} {
		var v T
		if t.site != nil && state != nil && json.Unmarshal(state, &v) == nil {
			t.tx.sites[t.site(&v)] = true
		}
	}
	if t.tx.mode != modeUpdate || t.silent {
		return
	}
	name := string(t.kind) + "/" + key
	if _, seen := t.tx.after[name]; !seen {
		t.tx.before[name] = old
		t.tx.touched = append(t.tx.touched, name)
	}
	t.tx.after[name] = raw
}
