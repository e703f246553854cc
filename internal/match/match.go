// Package match finds inexact copies: it describes data as a list of copies from a reference, each on one alignment over
// scattered differences, and of literals. The caller codes the differences. It is the matching half of a binary delta coder
// in the manner of bsdiff (Colin Percival, "Naive differences of executable code", 2003), with an index of hashed windows
// in place of the suffix array, so that memory is bounded and time is linear in practice on every input.
//
// The package knows nothing of files, images or codecs, and its output is a pure function of its input.
package match

import (
	"errors"
	"math/bits"
)

// Op is one step that produces Len bytes of the data.
type Op struct {
	// Copy: the bytes resemble the reference from Ref on, but need not be equal. Otherwise they are a literal and Ref is 0.
	Copy bool
	// Ref is an offset in the reference; parts count one after the other.
	Ref int64
	// Len is in bytes and never 0.
	Len int
}

// Options tune an index. Zero fields mean the defaults named with them.
type Options struct {
	// Window is how many equal bytes make a candidate: 8 to 32 (default 8). Values outside that range are clamped.
	Window int
	// MinMatch is how many bytes more than the current alignment a candidate has to predict before it is considered
	// (default 16). What the longer address of a distant candidate costs comes on top.
	MinMatch int
	// MaxCandidates bounds how many places of the reference are compared for one place of the data (default 6).
	MaxCandidates int
	// Sample leaves one of that many windows, chosen by their content, in the reference as in the data (default 1: all). Equal
	// stretches of Window + 3*Sample bytes are still found in 19 of 20 cases, in a fraction of the time and the memory. It is
	// rounded up to a power of two, at most 256.
	Sample int
	// Horizon bounds in bytes how far a candidate is compared with the current alignment (default 256; clamped to 64..1 MiB).
	Horizon int
	// MemoryBytes bounds the index (default 256 MiB). An index of every position takes about 5 bytes per byte of the
	// reference; a reference too large for that is indexed at every second position, every third, and so on, which costs only
	// short matches.
	MemoryBytes int64
}

const (
	defaultWindow        = 8
	defaultMinMatch      = 16
	defaultMaxCandidates = 6
	defaultHorizon       = 256
	defaultMemoryBytes   = 256 << 20
	minWindow            = 8
	maxWindow            = 32
	minHorizon           = 64
	maxHorizon           = 1 << 20
	maxSampleBits        = 8
)

// ErrOps is returned when ops do not fit the data or the reference they are applied to.
var ErrOps = errors.New("ops do not fit the data or the reference")

func (o Options) withDefaults() Options {
	if o.Window == 0 {
		o.Window = defaultWindow
	}
	o.Window = min(max(o.Window, minWindow), maxWindow)
	if o.MinMatch <= 0 {
		o.MinMatch = defaultMinMatch
	}
	if o.MaxCandidates <= 0 {
		o.MaxCandidates = defaultMaxCandidates
	}
	o.Sample = 1 << bits.Len(uint(min(max(o.Sample, 1), 1<<maxSampleBits)-1))
	if o.Horizon <= 0 {
		o.Horizon = defaultHorizon
	}
	o.Horizon = min(max(o.Horizon, minHorizon), maxHorizon)
	if o.MemoryBytes <= 0 {
		o.MemoryBytes = defaultMemoryBytes
	}
	return o
}
