package policy

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Close makes a satellite a Stream.
func (s *satellite) Close() error { return nil }

var errRefused = errors.New("refused")

// patience ends between two rounds; lastRound is the one before.
const (
	patience  = 20*time.Second + roundPause/2
	lastRound = 20 * time.Second
)

func satellites(addrs string) []agentproto.Satellite {
	var list []agentproto.Satellite
	for a := range strings.FieldsSeq(addrs) {
		list = append(list, agentproto.Satellite{Addr: a})
	}
	return list
}

// slow sends all at the end of patience.
type slow struct{ *satellite }

func (s slow) Fetch(ctx context.Context, name string, limit uint64, w io.Writer) (agentproto.Blob, error) {
	time.Sleep(patience) // in a bubble
	return s.satellite.Fetch(ctx, name, limit, w)
}

// TestFetchPatiently tells by each satellite's name how it behaves.
func TestFetchPatiently(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, satellites string
		ok               bool
		took             time.Duration
		text             string
		tries            int
	}{
		{"the first", "good good", true, 0, "", 1},
		{"the second", "away good", true, 0, "", 2},
		{"one that refuses and a good one", "refuses good", true, 0, "", 2},
		{"one that hangs", "hangs good", true, openTimeout, "", 2},
		{"one that is slow", "slow", true, 2 * patience, "", 1},
		{"one that comes up", "late", true, 3 * roundPause, "", 4},
		{"all refuse", "refuses refuses", false, 0, "refuses: refused", 2},
		{"one refuses, one is away", "refuses away", false, lastRound, "away: no route", 42},
		{"none answers in time", "hangs hangs", false, patience, "hangs: context deadline exceeded", 2},
		{"a stream that breaks", "breaks", false, lastRound, "breaks: fetch policy: cut", 21},
	} {
		synctest.Test(t, func(t *testing.T) {
			sat := newSatellite(t)
			sat.layer("organisation", file("a", "1"))
			s := open(t, t.TempDir())
			begin, tries := time.Now(), 0
			sum, err := s.FetchPatiently(t.Context(), patience, satellites(tt.satellites), func(ctx context.Context, to agentproto.Satellite) (Stream, error) {
				tries++
				switch to.Addr {
				case "away":
					return nil, errors.New("no route")
				case "refuses":
					return nil, errRefused
				case "hangs":
					<-ctx.Done()
					return nil, ctx.Err()
				case "late":
					if time.Since(begin) < 3*roundPause {
						return nil, errors.New("connection refused")
					}
				case "slow": // the state and one layer, each takes as long as the whole patience
					return slow{sat}, nil
				case "breaks":
					broken := newSatellite(t)
					broken.fail["policy"] = errors.New("cut")
					return broken, nil
				}
				return sat, nil
			}, func(err error) bool { return errors.Is(err, errRefused) })
			if (err == nil) != tt.ok || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%s: got %v", tt.name, err)
			}
			if took := time.Since(begin); took != tt.took || tries != tt.tries {
				t.Errorf("%s: took %v in %d tries, want %v in %d", tt.name, took, tries, tt.took, tt.tries)
			}
			if names, err := s.names(); err != nil || tt.ok != slices.Contains(names, sum) {
				t.Errorf("%s: the store has %v, %v", tt.name, names, err)
			}
		})
	}
}
