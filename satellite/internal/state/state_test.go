package state

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

func openStore(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestDesiredAndServedSurviveReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	s := openStore(t, path)
	if _, err := s.Desired(); !errors.Is(err, ErrNotFound) {
		t.Errorf("desired state of a new database: %v", err)
	}
	want := &config.Desired{Revision: 7, Site: "hill", Clients: []config.Client{{MAC: "52:54:00:00:00:01"}}}
	served := map[string]manifest.ID{"lab:stable": {1}, "lab:testing": {2}}
	for range 2 {
		if err := errors.Join(s.SetDesired(want), s.SetServed(served)); err != nil {
			t.Fatal(err)
		}
		served = map[string]manifest.ID{"lab:stable": {3}}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ro, err := OpenReadOnly(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ro.Desired(); err != nil || got.Revision != 7 {
		t.Errorf("read only: %+v, %v", got, err)
	}
	if err := ro.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, path)
	got, err := s.Desired()
	if err != nil {
		t.Fatal(err)
	}
	if got.Site != "hill" || len(got.Clients) != 1 {
		t.Errorf("desired state is %+v", got)
	}
	table, err := s.Served()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]manifest.ID{"lab:stable": {3}}, table); diff != "" {
		t.Errorf("served (-want +got):\n%s", diff)
	}
}

func TestRegistry(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), FileName))
	all := func() map[string]string {
		out := map[string]string{}
		if err := s.ForEach("clients", func(k, v []byte) error { out[string(k)] = string(v); return nil }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if err := s.Delete("clients", []byte("none")); err != nil {
		t.Errorf("delete from a missing bucket: %v", err)
	}
	if got := all(); len(got) != 0 {
		t.Errorf("a missing bucket holds %v", got)
	}
	for k, v := range map[string]string{"a": "1", "b": "2", "c": "3"} {
		if err := s.Put("clients", []byte(k), []byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Delete("clients", []byte("b")), s.Put("others", []byte("b"), nil)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"a": "1", "c": "3"}, all()); diff != "" {
		t.Errorf("registry (-want +got):\n%s", diff)
	}
	stop := errors.New("stop")
	if err := s.ForEach("clients", func(_, _ []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error of the callback came back as %v", err)
	}
}

func TestDatabaseOfTheFutureIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	s := openStore(t, path)
	err := s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(metaBucket).Put(schemaKey, binary.BigEndian.AppendUint64(nil, schemaVersion+1))
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, ErrSchema) {
		t.Errorf("error %v, want ErrSchema", err)
	}
}
