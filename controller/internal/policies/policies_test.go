package policies_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/policies"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
)

type bench struct {
	*policies.Keeper
	t     *testing.T
	store *store.Store
	dir   string
}

func open(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(store.Config{Path: filepath.Join(dir, "db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{t: t, store: s, dir: filepath.Join(dir, "policy")}
	b.reopen()
	err = s.Update(t.Context(), &store.Change{}, func(tx *store.Tx) error { return tx.Sites().Put("a", fleet.Site{Name: "a"}) })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) reopen() {
	b.t.Helper()
	k, err := policies.New(b.t.Context(), policies.Config{Store: b.store, Dir: b.dir})
	if err != nil {
		b.t.Fatal(err)
	}
	b.Keeper = k
}

func (b *bench) apply(scope fleet.Scope, archive string) fleet.PolicyVersion {
	b.t.Helper()
	v, created, err := b.Apply(b.t.Context(), "anna", policies.Draft{Scope: scope, Archive: []byte(archive), Files: 1})
	if err != nil || !created {
		b.t.Fatalf("apply: created %v, error %v", created, err)
	}
	return v
}

func (b *bench) files() int {
	b.t.Helper()
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	return len(entries)
}

func TestVersions(t *testing.T) {
	t.Parallel()
	b := open(t)
	org, room := fleet.Scope{}, fleet.Scope{Site: "a", Room: "lab"}
	one := b.apply(org, "one")
	two := b.apply(org, "two")
	if one.Number != 1 || two.Number != 2 || two.SHA256 != sha256.Sum256([]byte("two")) || two.Author != "anna" {
		t.Errorf("versions %+v, %+v", one, two)
	}
	if v := b.apply(room, "one"); v.Number != 1 || v.Scope != "room/a/lab" {
		t.Errorf("room's version %+v", v)
	}
	if n := b.files(); n != 2 {
		t.Errorf("%d archives, want 2: the same bytes are kept once", n)
	}
	same, created, err := b.Apply(t.Context(), "ben", policies.Draft{Scope: org, Archive: []byte("two"), BasedOn: 1})
	if err != nil || created || same.Number != 2 || same.Author != "anna" {
		t.Errorf("the same once more: %+v, %v, %v", same, created, err)
	}
	_, _, err = b.Apply(t.Context(), "ben", policies.Draft{Scope: org, Archive: []byte("three"), BasedOn: 1})
	if !errors.Is(err, fleet.ErrStale) {
		t.Errorf("from an old version: %v", err)
	}
	_, _, err = b.Apply(t.Context(), "ben", policies.Draft{Scope: fleet.Scope{Site: "x"}, Archive: []byte("three")})
	if !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("of no site: %v", err)
	}
	_, _, err = b.Apply(t.Context(), "ben", policies.Draft{Scope: org, Archive: []byte("three"), Note: "a\nb"})
	if !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("a note of two lines: %v", err)
	}
	if n := b.files(); n != 2 {
		t.Errorf("%d archives, want 2: what was refused stays nowhere", n)
	}
}

func TestUndo(t *testing.T) {
	t.Parallel()
	b := open(t)
	org := fleet.Scope{}
	_, err := b.Undo(t.Context(), "anna", org, 0)
	if !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("nothing to undo: %v", err)
	}
	one := b.apply(org, "one")
	if _, err := b.Undo(t.Context(), "anna", org, 0); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("before the first: %v", err)
	}
	b.apply(org, "two")
	v, err := b.Undo(t.Context(), "ben", org, 0)
	if err != nil || v.Number != 3 || v.UndoOf != 1 || v.SHA256 != one.SHA256 || v.Author != "ben" {
		t.Errorf("undo: %+v, %v", v, err)
	}
	if _, err := b.Undo(t.Context(), "ben", org, 1); !errors.Is(err, fleet.ErrState) {
		t.Errorf("what is in force: %v", err)
	}
	if v, err := b.Undo(t.Context(), "ben", org, 0); err != nil || v.Number != 4 || v.UndoOf != 2 {
		t.Errorf("undo of the undo: %+v, %v", v, err)
	}
	if _, err := b.Undo(t.Context(), "ben", org, 9); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("a version that was never: %v", err)
	}
}

// History is bounded, and the archives of what fell out go; so do those that a crash has left.
func TestCollect(t *testing.T) {
	t.Parallel()
	b := open(t)
	site := fleet.Scope{Site: "a"}
	for i := range fleet.MaxPolicyVersions + 5 {
		b.apply(site, fmt.Sprint(i))
	}
	if n := b.files(); n != fleet.MaxPolicyVersions {
		t.Errorf("%d archives, want %d", n, fleet.MaxPolicyVersions)
	}
	for _, name := range []string{strings.Repeat("ab", 32), ".tmp-x-1"} {
		if err := os.WriteFile(filepath.Join(b.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.reopen()
	if n := b.files(); n != fleet.MaxPolicyVersions {
		t.Errorf("%d archives after the start, want %d", n, fleet.MaxPolicyVersions)
	}
	err := b.store.Update(t.Context(), &store.Change{}, func(tx *store.Tx) error { return tx.DeletePoliciesOf("a") })
	if err := errors.Join(err, b.Collect(t.Context())); err != nil {
		t.Fatal(err)
	}
	if n := b.files(); n != 0 {
		t.Errorf("%d archives of a deleted site", n)
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	b := open(t)
	v := b.apply(fleet.Scope{}, "one")
	got, err := b.Read(v.SHA256)
	if err != nil || string(got) != "one" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := b.Read(fleet.Hash{1}); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	if _, err := b.Open(fleet.Hash{1}); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("open unknown: %v", err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, v.SHA256.String()), []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Read(v.SHA256); err == nil {
		t.Error("a damaged archive was read")
	}
}

// No text of a policy may reach the audit log: it may hold passwords.
func TestAuditHoldsNoContent(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.apply(fleet.Scope{}, `PASSWORDS_X="a/c2VjcmV0"`)
	b.apply(fleet.Scope{}, "two")
	if _, err := b.Undo(t.Context(), "ben", fleet.Scope{}, 0); err != nil {
		t.Fatal(err)
	}
	var entries []store.AuditEntry
	err := b.store.View(t.Context(), func(tx *store.Tx) (err error) {
		entries, err = tx.ListAudit(0, 10, "organisation")
		return err
	})
	if err != nil || len(entries) != 3 || entries[0].Action != "policy.undo" || entries[0].Object != "organisation@3" || entries[0].Actor != "ben" {
		t.Fatalf("entries %+v, %v", entries, err)
	}
	for _, e := range entries {
		var after map[string]fleet.PolicyVersion
		if err := json.Unmarshal(e.After, &after); err != nil || len(after) != 1 || after["policy/organisation"].SHA256.IsZero() {
			t.Errorf("entry %s, %v", e.After, err)
		}
		if text := append(e.Before, e.After...); bytes.Contains(text, []byte("PASSWORDS")) || bytes.Contains(text, []byte("c2VjcmV0")) {
			t.Errorf("the audit log holds %s", text)
		}
	}
}
