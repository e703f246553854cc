package delta

import (
	"context"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/ltsp-fleet/ltsp-fleet/internal/match"
)

const (
	// indexCost is the memory that the fine index takes per byte of a reference, while it is not limited.
	indexCost = 5
	// minJudged is from which length on a piece is judged in slices before it is compared closely.
	minJudged = maxMixedLiterals
	sliceLen  = 256 << 10
	// surveyLen bytes of every surveyEvery are compared to judge a slice.
	surveyLen   = 2 << 10
	surveyEvery = 64 << 10
	// coarseSample, coarseWindow and coarseMatch make an index that finds long copies only.
	coarseSample = 16
	coarseWindow = 24
	coarseMatch  = 32
	coarseTries  = 4
)

// reference is old content with its indexes.
type reference struct {
	parts  [][]byte
	addrs  []int64
	ends   []int64 // of each part in the indexes' offsets
	fine   *match.Index
	coarse func() *match.Index // made when it is asked for
	work   *work
}

// work counts what the search for operations costs.
type work struct {
	references atomic.Int64 // made
	indexed    atomic.Int64 // bytes of them
	fine       atomic.Int64 // bytes compared closely
	coarse     atomic.Int64 // and coarsely
}

// index makes the indexes; the fine one takes up to memory bytes.
func (r *reference) index(memory int64) {
	r.fine = match.NewIndexParts(r.parts, match.Options{MemoryBytes: memory})
	r.work.references.Add(1)
	r.work.indexed.Add(r.fine.Size())
	r.coarse = sync.OnceValue(func() *match.Index {
		return match.NewIndexParts(r.parts, match.Options{
			Sample: coarseSample, Window: coarseWindow, MinMatch: coarseMatch, MaxCandidates: coarseTries, MemoryBytes: memory,
		})
	})
}

// indexMemory is what the indexes of n bytes take if the fine one is limited to memory bytes.
func indexMemory(n, memory int64) int64 {
	return min(indexCost*n, memory) + min(indexCost*n/coarseSample, memory)
}

// bytes implements refBytes.
func (r *reference) bytes(off int64, n int) ([]byte, int64) {
	i := sort.Search(len(r.ends), func(i int) bool { return r.ends[i] > off })
	in := off - (r.ends[i] - int64(len(r.parts[i])))
	return r.parts[i][in : in+int64(n)], r.addrs[i] + in
}

// diff describes data by copies and literals. Where much of it is described badly by a close comparison, that is compared coarsely: it
// would take long to find many short copies, each of which costs more than its bytes as part of a longer literal.
func (r *reference) diff(ctx context.Context, data []byte) ([]match.Op, error) {
	if len(data) < minJudged {
		return r.closely(ctx, data)
	}
	like, err := r.judge(ctx, data)
	if err != nil {
		return nil, err
	}
	var out []match.Op
	for len(data) > 0 {
		run := 1
		for run < len(like) && like[run] == like[0] {
			run++
		}
		n := min(run*sliceLen, len(data))
		search := r.closely
		if !like[0] {
			search = r.coarsely
		}
		ops, err := search(ctx, data[:n])
		if err != nil {
			return nil, err
		}
		out, data, like = append(out, ops...), data[n:], like[run:]
	}
	return out, nil
}

// judge tells of each slice whether a close comparison pays. It does in any case if the literals will be few enough for the best coder.
func (r *reference) judge(ctx context.Context, data []byte) (like []bool, err error) {
	var unlike int
	for at := 0; at < len(data); at += sliceLen {
		slice := data[at:min(at+sliceLen, len(data))]
		is, err := r.resembles(ctx, slice)
		if err != nil {
			return nil, err
		}
		if like = append(like, is); !is {
			unlike += len(slice)
		}
	}
	if unlike <= maxMixedLiterals {
		for i := range like {
			like[i] = true
		}
	}
	return like, nil
}

func (r *reference) closely(ctx context.Context, data []byte) ([]match.Op, error) {
	r.work.fine.Add(int64(len(data)))
	return r.fine.Diff(ctx, data)
}

func (r *reference) coarsely(ctx context.Context, data []byte) ([]match.Op, error) {
	r.work.coarse.Add(int64(len(data)))
	return r.coarse().Diff(ctx, data)
}

// resembles judges a slice: whether much of it can be described by copies that cost little.
func (r *reference) resembles(ctx context.Context, slice []byte) (bool, error) {
	s, err := r.fine.Survey(ctx, slice, surveyLen, surveyEvery)
	if err != nil {
		return false, err
	}
	r.work.fine.Add(s.Seen)
	return s.Covered*minCovered >= s.Seen && s.Cost*maxCopyCost <= s.Covered, nil
}

const (
	// minCovered and maxCopyCost: copies of a slice are sought closely if they make at least that part of it, and take at most
	// that part of the bytes that they make.
	minCovered  = 5
	maxCopyCost = 5
)
