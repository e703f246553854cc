package delta

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func madeReference() (*reference, error) { return &reference{}, nil }

// TestPoolNeverExceeded: many groups with references of all lengths come to an end, and never have more than there is.
func TestPoolNeverExceeded(t *testing.T) {
	const limit = 1000
	synctest.Test(t, func(t *testing.T) {
		p := newPool(limit)
		var inUse atomic.Int64
		hold := func(n int64) (release func()) {
			if now := inUse.Add(n); now > limit {
				t.Errorf("%d bytes are in use, %d are allowed", now, limit)
			}
			return func() { inUse.Add(-n) }
		}
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 1))
				for range 200 {
					ref := r.Int64N(600)
					work := r.Int64N(limit - ref + 1)
					release, err := p.take(t.Context(), work, ref)
					if err != nil {
						t.Error(err)
						return
					}
					free := hold(work)
					for range 3 {
						size := r.Int64N(ref + 1)
						_, leave, err := p.get(t.Context(), fmt.Sprint(size, r.IntN(2)), size, madeReference)
						if err != nil {
							t.Error(err)
							return
						}
						p.mu.Lock()
						if p.work+p.used > limit {
							t.Errorf("%d for groups and %d for references", p.work, p.used)
						}
						p.mu.Unlock()
						time.Sleep(time.Duration(r.IntN(5)) * time.Millisecond)
						leave()
					}
					free()
					release()
				}
			})
		}
		wg.Wait()
		if p.work != 0 || len(p.claims) != 0 || p.idle.Len() != len(p.items) {
			t.Errorf("at the end %d bytes are claimed, %d of %d references idle", p.work, p.idle.Len(), len(p.items))
		}
	})
}

// TestPoolKeepsReferences: what is idle is found again, until a group needs its memory.
func TestPoolKeepsReferences(t *testing.T) {
	p := newPool(100)
	p.usual = 100
	made := 0
	use := func(key string, size int64) {
		t.Helper()
		_, leave, err := p.get(t.Context(), key, size, func() (*reference, error) { made++; return madeReference() })
		if err != nil {
			t.Fatal(err)
		}
		leave()
	}
	use("a", 60)
	use("b", 40)
	use("a", 60)
	if made != 2 {
		t.Fatalf("%d references were made, want 2", made)
	}
	release, err := p.take(t.Context(), 30, 40)
	if err != nil {
		t.Fatal(err)
	}
	use("a", 60) // the one used last is still there
	release()
	use("b", 40)
	if made != 3 {
		t.Errorf("%d references were made, want 3", made)
	}
}

// TestPoolLargeGroup: a large group is not passed by small ones for ever.
func TestPoolLargeGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(100)
		first, err := p.take(t.Context(), 50, 0)
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		var mu sync.Mutex
		group := func(name string, n int64) {
			release, err := p.take(t.Context(), n, 0)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			order = append(order, name)
			mu.Unlock()
			time.Sleep(time.Second)
			release()
		}
		go group("large", 100)
		synctest.Wait()
		go group("small", 10)
		synctest.Wait()
		first()
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if fmt.Sprint(order) != "[large small]" {
			t.Errorf("order %v", order)
		}
	})
}

func TestPoolErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(100)
		if _, err := p.take(t.Context(), 60, 41); !errors.Is(err, ErrLimit) {
			t.Errorf("too much gives %v", err)
		}
		failed := errors.New("failed")
		if _, _, err := p.get(t.Context(), "a", 10, func() (*reference, error) { return nil, failed }); !errors.Is(err, failed) {
			t.Errorf("a reference that cannot be made gives %v", err)
		}
		if p.used != 0 || len(p.items) != 0 {
			t.Errorf("it takes %d bytes", p.used)
		}
		release, err := p.take(t.Context(), 100, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for range 2 { // the second waits for its turn
			if _, err := p.take(ctx, 1, 0); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a group that waits gives %v", err)
			}
		}
		if _, _, err := p.get(ctx, "b", 10, madeReference); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a reference that waits gives %v", err)
		}
	})
}

// TestPoolUsually: more than usual is for one group alone; idle references do not take it.
func TestPoolUsually(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(100)
		p.usual = 60
		for _, key := range []string{"a", "b"} {
			_, leave, err := p.get(t.Context(), key, 40, madeReference)
			if err != nil {
				t.Fatal(err)
			}
			leave()
		}
		if p.used != 40 || p.items["b"] == nil {
			t.Errorf("%d bytes are kept, want the last 40", p.used)
		}
		large, err := p.take(t.Context(), 70, 30)
		if err != nil || p.used != 0 {
			t.Fatalf("%d bytes are kept beside a large group, error %v", p.used, err)
		}
		in := make(chan func())
		go func() {
			small, err := p.take(t.Context(), 10, 0)
			if err != nil {
				t.Error(err)
			}
			in <- small
		}()
		synctest.Wait()
		select {
		case <-in:
			t.Error("a large group was not alone")
		default:
		}
		large()
		(<-in)()
	})
}
