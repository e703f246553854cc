package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

var now = time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)

func open(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(store.Config{Path: path, Now: func() time.Time { return now }, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.VerifyAudit(context.Background()); err != nil {
			t.Errorf("audit: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func newStore(t *testing.T) *store.Store {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "db"))
}

func update(t *testing.T, s *store.Store, action string, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), &store.Change{Actor: "ltsp://admin/anna", Action: action, Object: "x"}, fn); err != nil {
		t.Fatalf("%s: %v", action, err)
	}
}

func audit(t *testing.T, s *store.Store) []store.AuditEntry {
	t.Helper()
	var list []store.AuditEntry
	err := s.View(t.Context(), func(tx *store.Tx) (err error) {
		list, err = tx.ListAudit(0, 1000, "")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(list)
	return list
}

func TestTables(t *testing.T) {
	s := newStore(t)
	a, b := fleet.Site{Name: "a", Created: now}, fleet.Site{Name: "b", Created: now}
	update(t, s, "create", func(tx *store.Tx) error { return errors.Join(tx.Sites().Insert("a", a), tx.Sites().Put("b", b)) })
	err := s.Update(t.Context(), &store.Change{}, func(tx *store.Tx) error { return tx.Sites().Insert("a", a) })
	if !errors.Is(err, fleet.ErrExists) {
		t.Errorf("insert twice: %v", err)
	}
	err = s.View(t.Context(), func(tx *store.Tx) error {
		list, err := tx.Sites().List("")
		if diff := cmp.Diff([]fleet.Site{a, b}, list); diff != "" || err != nil {
			t.Errorf("list, error %v (-want +got):\n%s", err, diff)
		}
		if _, err := tx.Sites().Get("c"); !errors.Is(err, fleet.ErrNotFound) {
			t.Errorf("get nothing: %v", err)
		}
		if _, ok, err := tx.Sites().Find("c"); ok || err != nil {
			t.Errorf("find nothing: %v, %v", ok, err)
		}
		if n := tx.Sites().Count(""); n != 2 {
			t.Errorf("count %d", n)
		}
		return tx.Sites().Put("c", a)
	})
	if err == nil {
		t.Error("a view wrote")
	}
	update(t, s, "delete", func(tx *store.Tx) error { return errors.Join(tx.Sites().Delete("a"), tx.Sites().Delete("never")) })
	if got := len(audit(t, s)); got != 2 {
		t.Errorf("%d audit entries, want 2: what failed leaves none", got)
	}
}

func TestUpdateIsOne(t *testing.T) {
	s := newStore(t)
	stop := errors.New("stop")
	err := s.Update(t.Context(), &store.Change{}, func(tx *store.Tx) error {
		return errors.Join(tx.Sites().Put("a", fleet.Site{Name: "a"}), tx.PutSecret("s", []byte("x")), stop)
	})
	if !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	seen := 0
	s.Observe(func(store.Commit) { seen++ })
	err = s.Update(t.Context(), &store.Change{}, func(tx *store.Tx) error {
		if tx.Sites().Count("") != 0 || len(tx.Secret("s")) != 0 {
			t.Error("a part of the failed transaction is there")
		}
		return nil
	})
	if err != nil || len(audit(t, s)) != 0 || seen != 0 {
		t.Errorf("nothing was written: error %v, %d entries, %d commits seen", err, len(audit(t, s)), seen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Update(ctx, &store.Change{}, func(*store.Tx) error { t.Error("ran"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
}

func TestAuditEntries(t *testing.T) {
	s := newStore(t)
	update(t, s, "create", func(tx *store.Tx) error {
		return errors.Join(tx.Sites().Put("a", fleet.Site{Name: "a"}), tx.PutSecret(store.GossipKey("a"), []byte("TOPSECRET")))
	})
	update(t, s, "update", func(tx *store.Tx) error {
		// Twice in one transaction: the entry has the first state and the last.
		return errors.Join(tx.Sites().Put("a", fleet.Site{Name: "a", Description: "half"}), tx.Sites().Put("a", fleet.Site{Name: "a", Description: "whole"}))
	})
	update(t, s, "same", func(tx *store.Tx) error { return tx.Sites().Put("a", fleet.Site{Name: "a", Description: "whole"}) })
	update(t, s, "delete", func(tx *store.Tx) error { return tx.Sites().Delete("a") })
	var got []string
	for _, e := range audit(t, s) {
		got = append(got, fmt.Sprintf("%d %s %s %q>%q", e.Sequence, e.Actor, e.Action, description(t, e.Before), description(t, e.After)))
		if strings.Contains(string(e.After), "TOPSECRET") || strings.Contains(string(e.After), "VE9QU0VDUkVU") {
			t.Error("the audit log holds a secret")
		}
	}
	want := []string{
		`1 ltsp://admin/anna create "none">""`, `2 ltsp://admin/anna update "">"whole"`, `3 ltsp://admin/anna delete "whole">"none"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

// description reads the site's description in one side of an entry.
func description(t *testing.T, raw json.RawMessage) string {
	t.Helper()
	if len(raw) == 0 {
		return "none"
	}
	var side map[string]fleet.Site
	if err := json.Unmarshal(raw, &side); err != nil {
		t.Fatal(err)
	}
	site, ok := side["site/a"]
	if !ok || len(side) != 1 {
		t.Fatalf("entry holds %s", raw)
	}
	return site.Description
}

func TestListAudit(t *testing.T) {
	s := newStore(t)
	for i := range 10 {
		err := s.Update(t.Context(), &store.Change{Object: fmt.Sprint(map[bool]string{true: "even", false: "odd"}[i%2 == 0], i)}, func(tx *store.Tx) error {
			return tx.Sites().Put("a", fleet.Site{Name: "a", Revision: uint64(i + 1)})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		before uint64
		limit  int
		object string
		want   []uint64
	}{
		{0, 3, "", []uint64{10, 9, 8}}, {8, 3, "", []uint64{7, 6, 5}}, {2, 3, "", []uint64{1}}, {1, 3, "", nil}, {100, 1, "", []uint64{10}}, {0, 2, "odd", []uint64{10, 8}},
		{0, 9, "even4", []uint64{5}},
	}
	for _, test := range tests {
		var got []uint64
		err := s.View(t.Context(), func(tx *store.Tx) error {
			list, err := tx.ListAudit(test.before, test.limit, test.object)
			for _, e := range list {
				got = append(got, e.Sequence)
			}
			return err
		})
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("%+v: error %v (-want +got):\n%s", test, err, diff)
		}
	}
}

// Whoever edits the file behind the program's back breaks the chain.
func TestAuditTampering(t *testing.T) {
	key := func(n byte) []byte { return []byte{0, 0, 0, 0, 0, 0, 0, n} }
	tests := map[string]func(audit, meta *bolt.Bucket) error{
		"edited": func(audit, _ *bolt.Bucket) error {
			return audit.Put(key(2), []byte(strings.Replace(string(audit.Get(key(2))), "anna", "carl", 1)))
		},
		"removed":    func(audit, _ *bolt.Bucket) error { return audit.Delete(key(2)) },
		"cut off":    func(audit, _ *bolt.Bucket) error { return audit.Delete(key(3)) },
		"swapped":    func(audit, _ *bolt.Bucket) error { return audit.Put(key(1), append([]byte(nil), audit.Get(key(2))...)) },
		"added":      func(audit, _ *bolt.Bucket) error { return audit.Put(key(4), append([]byte(nil), audit.Get(key(3))...)) },
		"short":      func(audit, _ *bolt.Bucket) error { return audit.Put(key(2), []byte("x")) },
		"other head": func(_, meta *bolt.Bucket) error { return meta.Put([]byte("audit_head"), make([]byte, 40)) },
	}
	for name, tamper := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			s, err := store.Open(store.Config{Path: path, NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				update(t, s, "create", func(tx *store.Tx) error { return tx.Sites().Put("a", fleet.Site{Name: "a", Revision: uint64(i + 1)}) })
			}
			if err := errors.Join(s.VerifyAudit(t.Context()), s.Close()); err != nil {
				t.Fatal(err)
			}
			edit(t, path, tamper)
			if s, err = store.Open(store.Config{Path: path, NoSync: true}); err != nil {
				t.Fatal(err)
			}
			if err := s.VerifyAudit(t.Context()); !errors.Is(err, store.ErrAudit) {
				t.Errorf("got %v, want ErrAudit", err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func edit(t *testing.T, path string, fn func(audit, meta *bolt.Bucket) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error { return fn(tx.Bucket([]byte("audit")), tx.Bucket([]byte("meta"))) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestObserve(t *testing.T) {
	s := newStore(t)
	var got []string
	s.Observe(func(c store.Commit) {
		slices.Sort(c.Kinds)
		slices.Sort(c.Sites)
		got = append(got, fmt.Sprint(c.Kinds, c.Sites, c.Audited))
	})
	update(t, s, "subnet", func(tx *store.Tx) error { return tx.Subnets().Put("a/lan", fleet.Subnet{Site: "a", Name: "lan"}) })
	update(t, s, "client", func(tx *store.Tx) error { return tx.PutClient(fleet.Client{Site: "a", MAC: "m"}) })
	update(t, s, "client moves", func(tx *store.Tx) error { return tx.PutClient(fleet.Client{Site: "b", MAC: "m"}) })
	if err := s.Record(t.Context(), func(tx *store.Tx) error { return tx.Statuses().Put("a1", fleet.Status{Satellite: "a1"}) }); err != nil {
		t.Fatal(err)
	}
	want := []string{"[subnet] [a] true", "[client] [a] true", "[client] [a b] true", "[status] [] false"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("commits (-want +got):\n%s", diff)
	}
}

func TestRecordWritesReportsOnly(t *testing.T) {
	s := newStore(t)
	for name, fn := range map[string]func(*store.Tx) error{
		"site":   func(tx *store.Tx) error { return tx.Sites().Put("a", fleet.Site{Name: "a"}) },
		"secret": func(tx *store.Tx) error { return tx.PutSecret("a", []byte("x")) },
		"delete": func(tx *store.Tx) error { return tx.Sites().Delete("a") },
	} {
		if err := s.Record(t.Context(), fn); err == nil {
			t.Errorf("%s: written without an audit entry", name)
		}
	}
}

func TestClientIndex(t *testing.T) {
	s := newStore(t)
	update(t, s, "set", func(tx *store.Tx) error { return tx.PutClient(fleet.Client{Site: "a", MAC: "m", Name: "pc"}) })
	update(t, s, "move", func(tx *store.Tx) error { return tx.PutClient(fleet.Client{Site: "b", MAC: "m", Name: "pc"}) })
	err := s.View(t.Context(), func(tx *store.Tx) error {
		c, err := tx.Client("m")
		inA, errA := tx.Clients("a")
		inB, errB := tx.Clients("b")
		if c.Site != "b" || len(inA) != 0 || len(inB) != 1 {
			t.Errorf("client at %s, %d at a, %d at b", c.Site, len(inA), len(inB))
		}
		return errors.Join(err, errA, errB)
	})
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, "delete", func(tx *store.Tx) error { return tx.DeleteClient("m", "") })
	if err := s.View(t.Context(), func(tx *store.Tx) error { _, err := tx.Client("m"); return err }); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("deleted client: %v", err)
	}
}

func TestVersions(t *testing.T) {
	s := newStore(t)
	for n := uint64(1); n <= 12; n++ {
		update(t, s, "publish", func(tx *store.Tx) error {
			return tx.PutVersion(fleet.Version{Image: "lab", Number: n, ID: manifest.ID{byte(n)}}, []byte{byte(n)})
		})
	}
	for name, v := range map[string]fleet.Version{"number": {Image: "lab", Number: 3, ID: manifest.ID{99}}, "ID": {Image: "lab", Number: 99, ID: manifest.ID{3}}} {
		err := s.Update(t.Context(), &store.Change{}, func(tx *store.Tx) error { return tx.PutVersion(v, nil) })
		if !errors.Is(err, fleet.ErrExists) {
			t.Errorf("taken %s: %v", name, err)
		}
	}
	update(t, s, "other image", func(tx *store.Tx) error {
		return tx.PutVersion(fleet.Version{Image: "lab2", Number: 1, ID: manifest.ID{50}}, nil)
	})
	err := s.View(t.Context(), func(tx *store.Tx) error {
		list, err := tx.VersionsOf("lab")
		if len(list) != 12 || list[9].Number != 10 || list[11].Number != 12 {
			t.Errorf("versions are not in the order of their numbers: %v", list)
		}
		v, ok, err2 := tx.VersionByID(manifest.ID{7})
		signed, err3 := tx.Manifest("lab", 7)
		if !ok || v.Number != 7 || len(signed) != 1 || signed[0] != 7 {
			t.Errorf("version by ID: %v, %v, manifest %v", v, ok, signed)
		}
		return errors.Join(err, err2, err3)
	})
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, "delete", func(tx *store.Tx) error {
		return tx.DeleteVersion(fleet.Version{Image: "lab", Number: 7, ID: manifest.ID{7}})
	})
	err = s.View(t.Context(), func(tx *store.Tx) error {
		_, ok, err := tx.VersionByID(manifest.ID{7})
		_, noManifest := tx.Manifest("lab", 7)
		_, noVersion := tx.Version("lab", 7)
		if ok || !errors.Is(noManifest, fleet.ErrNotFound) || !errors.Is(noVersion, fleet.ErrNotFound) {
			t.Errorf("something of a deleted version is left: %v, %v, %v", ok, noManifest, noVersion)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	open(t, path)
	if _, err := store.Open(store.Config{Path: path}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("got %v, want ErrLocked", err)
	}
}

func TestNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s, err := store.Open(store.Config{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, path, func(_, meta *bolt.Bucket) error { return meta.Put([]byte("schema"), []byte{99}) })
	if _, err := store.Open(store.Config{Path: path}); !errors.Is(err, store.ErrSchema) {
		t.Errorf("got %v, want ErrSchema", err)
	}
}
