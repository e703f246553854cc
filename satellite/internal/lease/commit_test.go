package lease

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// slowLog takes a second for each Append, as a disk that is asked to flush.
type slowLog struct {
	*memLog
	sizes []int
}

func (l *slowLog) Append(ctx context.Context, rs []Record) error {
	time.Sleep(time.Second)
	l.sizes = append(l.sizes, len(rs))
	return l.memLog.Append(ctx, rs)
}

func TestCommitterSharesOneFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &slowLog{memLog: newLog()}
		c := NewCommitter(log)
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error)
		go func() { end <- c.Run(ctx) }()
		start := time.Now()
		done := make(chan time.Duration, 101)
		submit := func(n int) {
			r := Record{Addr: address(number(addr("20")) + uint32(n)), State: Bound}
			c.Submit([]Record{r}, func(err error) {
				if err != nil {
					t.Error(err)
				}
				done <- time.Since(start)
			})
		}
		submit(0)
		synctest.Wait() // the first is on its way to the disk
		for n := range 100 {
			submit(n + 1)
		}
		if d := <-done; d != time.Second {
			t.Errorf("a single client waited %s", d)
		}
		for range 100 {
			if d := <-done; d != 2*time.Second {
				t.Fatalf("a client of the crowd waited %s", d)
			}
		}
		if len(log.sizes) != 2 || log.sizes[1] != 100 || len(log.records) != 101 {
			t.Errorf("appends of %v records, %d addresses", log.sizes, len(log.records))
		}
		submit(200)
		cancel()
		if err := <-end; err != nil {
			t.Error(err)
		}
		if len(log.records) != 102 {
			t.Errorf("what waited at the end was not written: %d addresses", len(log.records))
		}
		var late error
		c.Submit(nil, func(err error) { late = err })
		if !errors.Is(late, ErrClosed) {
			t.Errorf("commit after the end: %v", late)
		}
	})
}

func TestCommitterReportsFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.err = errors.New("disk full")
		c := NewCommitter(log)
		ctx, cancel := context.WithCancel(t.Context())
		go c.Run(ctx)
		result := make(chan error, 1)
		c.Submit([]Record{{Addr: addr("20"), State: Bound}}, func(err error) { result <- err })
		if err := <-result; !errors.Is(err, log.err) {
			t.Errorf("got %v", err)
		}
		log.err = nil
		c.Submit([]Record{{Addr: addr("20"), State: Bound}}, func(err error) { result <- err })
		if err := <-result; err != nil {
			t.Errorf("after the disk has recovered: %v", err)
		}
		cancel()
	})
}

func TestCommitterBoundsABatch(t *testing.T) {
	log := &slowLog{memLog: newLog()}
	c := NewCommitter(log)
	for n := range maxBatch + 10 {
		c.Submit([]Record{{Addr: address(uint32(n)), State: Bound}}, nil)
	}
	if n := len(c.take()); n != maxBatch {
		t.Errorf("first batch has %d", n)
	}
	if n := len(c.take()); n != 10 {
		t.Errorf("second batch has %d", n)
	}
	if c.take() != nil {
		t.Error("something is left")
	}
}

func TestMAC(t *testing.T) {
	m, err := ParseMAC("52-54-00-67-00-10")
	if err != nil || m.String() != "52:54:00:67:00:10" {
		t.Errorf("%s, %v", m, err)
	}
	for _, bad := range []string{"", "52:54", "00:00:00:00:fe:80:00:00"} {
		if _, err := ParseMAC(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
	b, _ := m.MarshalText()
	var again MAC
	if err := again.UnmarshalText(b); err != nil || again != m {
		t.Errorf("%s, %v", again, err)
	}
}
