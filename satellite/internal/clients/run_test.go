package clients

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// memStore is a Store in memory that can be told to fail.
type memStore struct {
	mu   sync.Mutex
	data map[string][]byte
	fail bool
}

func (m *memStore) Put(_ string, key, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail {
		return errors.New("disk full")
	}
	m.data[string(key)] = slices.Clone(value)
	return nil
}

func (m *memStore) Delete(_ string, key []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.data, string(key))
	return nil
}

func (m *memStore) ForEach(_ string, fn func(key, value []byte) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, v := range m.data {
		if err := fn([]byte(k), v); err != nil {
			return err
		}
	}
	return nil
}

func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memStore{data: map[string][]byte{"junk": []byte("{"), "52:54:00:00:00:99": []byte(`{"snapshot":{"mac":"other"}}`)}, fail: true}
		r := newRegistry(t, func(c *Config) { c.Store = store })
		token, err := r.IssueToken(pc)
		if err != nil {
			t.Fatal(err)
		}
		walk(r, "0 script", "1 initrd-sent")
		report(t, r, "healthy", 0, step("kernel", 0))
		r.save()
		store.fail = false
		r.save()
		if len(store.data) != 1 {
			t.Errorf("the store holds %d entries, want the client alone", len(store.data))
		}
		before := get(t, r)
		time.Sleep(time.Hour)
		r2 := newRegistry(t, func(c *Config) { c.Store = store })
		after := get(t, r2)
		if diff := cmp.Diff(lines(before.Timeline), lines(after.Timeline)); diff != "" || after.State != Healthy || after.Report == nil {
			t.Errorf("after a restart: %+v\n%s", after, diff)
		}
		r2.Sweep()
		if s := get(t, r2).State; s != Healthy {
			t.Errorf("state %s right after the restart, want the time without a satellite not to count", s)
		}
		if err := r2.Hello(agentproto.Hello{MAC: pc, Token: token}, addr); err != nil {
			t.Errorf("token after the restart: %v", err)
		}
		if n := len(r2.Pending()); n != 1 {
			t.Errorf("%d pending after the restart, want all clients", n)
		}
		time.Sleep(time.Minute)
		r2.Sweep()
		if s := get(t, r2).State; s != Lost {
			t.Errorf("state %s a minute after the restart, want lost", s)
		}
	})
}
