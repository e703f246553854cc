package link_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/link"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
)

type bench struct {
	*link.Registry
	t     *testing.T
	store *store.Store
	stop  func()
}

// open opens the database at path and runs a registry on it until stop. It must be called within a synctest bubble.
func open(t *testing.T, path string) *bench {
	t.Helper()
	return openFlushing(t, path, 0)
}

func openFlushing(t *testing.T, path string, interval time.Duration) *bench {
	t.Helper()
	s, err := store.Open(store.Config{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	r, err := link.New(t.Context(), link.Config{Store: s, FlushInterval: interval})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return &bench{Registry: r, t: t, store: s, stop: func() {
		cancel()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Errorf("stop: %v", err)
		}
	}}
}

func (b *bench) update(fn func(*store.Tx) error) {
	b.t.Helper()
	if err := b.store.Update(b.t.Context(), &store.Change{}, fn); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) site(name, description string) {
	b.t.Helper()
	b.update(func(tx *store.Tx) error {
		site, _, err := tx.Sites().Find(name)
		site.Name, site.Boot.KernelParameters = name, description
		return errors.Join(err, tx.Sites().Put(name, site))
	})
}

func (b *bench) satellite(name, site string) {
	b.t.Helper()
	b.update(func(tx *store.Tx) error { return tx.Satellites().Put(name, fleet.Satellite{Name: name, Site: site}) })
}

func (b *bench) session(name, site string) *link.Session {
	b.t.Helper()
	s, err := b.Open(name, site, "build")
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// next returns the next state, and how long it took.
func next(t *testing.T, s *link.Session) (fleet.DesiredState, time.Duration) {
	t.Helper()
	start := time.Now()
	m, err := s.Next(t.Context())
	if err != nil || m.Desired == nil {
		t.Fatalf("got %+v, %v; want a state", m, err)
	}
	return *m.Desired, time.Since(start)
}

func quiet(t *testing.T, s *link.Session) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if m, err := s.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %+v, error %v; want nothing", m, err)
	}
}

func TestChangesAreCoalescedAndNumbered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		b := open(t, path)
		b.site("a", "")
		b.site("b", "")
		b.satellite("a1", "a")
		s := b.session("a1", "a")
		first, took := next(t, s)
		if first.Revision != 1 || took != 0 {
			t.Errorf("first state: revision %d after %s", first.Revision, took)
		}
		for i := range 20 {
			b.site("a", fmt.Sprint("p", i))
		}
		second, took := next(t, s)
		if second.Revision != 2 || second.Boot.KernelParameters != "p19" || took != link.DefaultCoalesce {
			t.Errorf("20 changes: revision %d with %q after %s", second.Revision, second.Boot.KernelParameters, took)
		}
		b.site("b", "other site")
		b.site("a", "x")
		b.site("a", "p19") // there and back
		quiet(t, s)
		if d, err := b.Desired(t.Context(), "b"); err != nil || d.Revision != 1 {
			t.Errorf("other site: revision %d, %v", d.Revision, err)
		}
		b.stop()

		b = open(t, path) // a state that is as before keeps its revision over a restart
		if d, _ := next(t, b.session("a1", "a")); d.Revision != 2 {
			t.Errorf("after a restart: revision %d", d.Revision)
		}
		if _, err := b.Desired(t.Context(), "nowhere"); !errors.Is(err, fleet.ErrNotFound) {
			t.Errorf("no site: %v", err)
		}
		b.stop()
	})
}

func TestSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, filepath.Join(t.TempDir(), "db"))
		b.site("a", "")
		b.satellite("a1", "a")
		if _, ok := b.Status("a1"); ok || b.Connected("a1") {
			t.Error("never here, and known")
		}
		old := b.session("a1", "a")
		next(t, old)
		fresh := b.session("a1", "a")
		if _, err := old.Next(t.Context()); !errors.Is(err, link.ErrSuperseded) {
			t.Errorf("old session: %v", err)
		}
		old.Status(fleet.Status{DiskFreeBytes: 99}) // too late
		old.Close()
		if s, _ := b.Status("a1"); !b.Connected("a1") || s.DiskFreeBytes != 0 {
			t.Error("the old session still counts")
		}
		time.Sleep(time.Minute)
		fresh.Close()
		if s, ok := b.Status("a1"); !ok || b.Connected("a1") || !s.Received.Equal(time.Now()) || s.Build != "build" {
			t.Errorf("after the end: %+v, %v", s, ok)
		}
		last := b.session("a1", "a")
		next(t, last)
		b.stop()
		if _, err := last.Next(t.Context()); !errors.Is(err, link.ErrClosing) {
			t.Errorf("session when the controller stops: %v", err)
		}
		if _, err := b.Open("a1", "a", ""); !errors.Is(err, link.ErrClosing) {
			t.Errorf("session after that: %v", err)
		}
	})
}

func TestReportsSurviveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		b := open(t, path)
		b.site("a", "")
		b.satellite("a1", "a")
		s := b.session("a1", "a")
		s.Status(fleet.Status{DiskFreeBytes: 5})
		s.Clients([]fleet.ClientReport{{MAC: "52:54:00:00:00:01", State: "healthy"}, {MAC: "52-54-00-00-00-02", State: "booting", Site: "b", Satellite: "b1"}, {MAC: "x"}})
		b.stop() // what was not flushed yet is flushed now

		b = open(t, path)
		if st, ok := b.Status("a1"); !ok || !st.Reported || st.DiskFreeBytes != 5 {
			t.Errorf("status %+v, %v", st, ok)
		}
		if got := b.Reports("a"); len(got) != 2 || b.CountReports("a") != 2 || len(b.Reports("b")) != 0 {
			t.Errorf("reports %+v", got)
		}
		b.ForgetClient("52:54:00:00:00:01")
		b.ForgetSatellite("a1")
		b.stop()

		b = open(t, path)
		if _, ok := b.Status("a1"); ok || len(b.Reports("")) != 1 {
			t.Errorf("forgotten, and there again: %v", b.Reports(""))
		}
		b.ForgetSite("a")
		if len(b.Reports("")) != 0 || b.CountReports("a") != 0 {
			t.Error("reports of a site that is gone")
		}
		b.stop()
	})
}

func TestPeersHearOfNewAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, filepath.Join(t.TempDir(), "db"))
		defer b.stop()
		b.site("a", "")
		b.satellite("a1", "a")
		b.satellite("a2", "a")
		one, two := b.session("a1", "a"), b.session("a2", "a")
		next(t, two)
		one.Status(fleet.Status{Addresses: []string{"10.0.0.1/24", "10.0.0.2/24"}})
		d, _ := next(t, two)
		if got := fmt.Sprint(d.Peers); got != "[{a1 [10.0.0.1/24 10.0.0.2/24]} {a2 []}]" {
			t.Errorf("peers %s", got)
		}
		one.Status(fleet.Status{Addresses: []string{"10.0.0.2/24", "10.0.0.1/24"}, DiskFreeBytes: 1})
		quiet(t, two)
	})
}

func TestReportLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, filepath.Join(t.TempDir(), "db"))
		defer b.stop()
		b.site("a", "")
		b.satellite("a1", "a")
		s := b.session("a1", "a")
		n := 0
		batch := func(size int) (list []fleet.ClientReport) {
			for range size {
				n++
				list = append(list, fleet.ClientReport{MAC: fleet.MAC(fmt.Sprintf("52:54:00:%02x:%02x:%02x", n>>16, n>>8&0xff, n&0xff))})
			}
			return list
		}
		s.Clients(batch(link.MaxReports + 50))
		if got := b.CountReports("a"); got != link.MaxReports {
			t.Errorf("%d reports kept of one message", got)
		}
		for b.CountReports("a") < fleet.MaxClients {
			before := b.CountReports("a")
			s.Clients(batch(link.MaxReports))
			if b.CountReports("a") == before {
				t.Fatal("no progress")
			}
		}
		s.Clients(batch(10))
		if got := b.CountReports("a"); got != fleet.MaxClients {
			t.Errorf("%d reports kept of one site", got)
		}
	})
}

// A client that changed its satellite: a late report of the old one does not hide the new.
func TestLateReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, filepath.Join(t.TempDir(), "db"))
		defer b.stop()
		b.site("a", "")
		one, two := b.session("a1", "a"), b.session("a2", "a")
		two.Clients([]fleet.ClientReport{{MAC: "52:54:00:00:00:01", State: "healthy", Time: time.Now()}})
		one.Clients([]fleet.ClientReport{{MAC: "52:54:00:00:00:01", State: "lost", Time: time.Now().Add(-time.Minute)}})
		if got := b.Reports("a"); len(got) != 1 || got[0].State != "healthy" {
			t.Errorf("reports %+v", got)
		}
	})
}

func TestOldReportsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openFlushing(t, filepath.Join(t.TempDir(), "db"), time.Hour)
		defer b.stop()
		b.site("a", "")
		b.update(func(tx *store.Tx) error { return tx.PutClient(fleet.Client{Site: "a", MAC: "52:54:00:00:00:02"}) })
		b.session("a1", "a").Clients([]fleet.ClientReport{{MAC: "52:54:00:00:00:01"}, {MAC: "52:54:00:00:00:02"}})
		time.Sleep(link.DefaultForget + 2*time.Hour)
		if got := b.Reports("a"); len(got) != 1 || got[0].MAC != "52:54:00:00:00:02" {
			t.Errorf("after 90 days: %+v; want the configured client's only", got)
		}
	})
}

// The package comment lists the metrics that are registered.
func TestMetrics(t *testing.T) {
	s, err := store.Open(store.Config{Path: filepath.Join(t.TempDir(), "db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	reg := prometheus.NewRegistry()
	if _, err := link.New(t.Context(), link.Config{Store: s, Metrics: reg}); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		got = append(got, f.GetName())
	}
	source, err := os.ReadFile("link.go")
	if err != nil {
		t.Fatal(err)
	}
	comment, _, _ := strings.Cut(string(source), "\npackage ")
	want := regexp.MustCompile(`ltsp_controller_[a-z_]+`).FindAllString(comment, -1)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-comment +registered):\n%s", diff)
	}
}
