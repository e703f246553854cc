package deflate

import (
	"errors"
	"fmt"
)

// Variant names the program whose choices are reproduced.
type Variant uint8

// The variants. The numbers are kept in deltas: never reuse one.
const (
	// GNUGzip is GNU gzip 1.12 (unchanged in this respect since 1.2.4) reading a regular file.
	GNUGzip Variant = 1
	// Zlib is zlib 1.2.12 and later, given the whole input in one call.
	Zlib Variant = 2
)

// String returns "gzip" or "zlib".
func (v Variant) String() string {
	switch v {
	case GNUGzip:
		return "gzip"
	case Zlib:
		return "zlib"
	}
	return fmt.Sprintf("variant %d", uint8(v))
}

// Strategies of the Zlib variant, with zlib's own numbers.
const (
	StrategyDefault  = 0
	StrategyFiltered = 1 // short matches are not used
	StrategyHuffman  = 2 // no matches
	StrategyRLE      = 3 // only matches at distance one
	StrategyFixed    = 4 // no dynamic Huffman codes
)

// ErrParams tells that the parameters describe no encoder of this package.
var ErrParams = errors.New("no such deflate encoder")

// Params selects an encoder. GNUGzip looks at Level alone.
type Params struct {
	Variant Variant
	// Level is 1 to 9. Level 0 (stored blocks only) is not an encoder worth reproducing.
	Level int
	// MemLevel is 1 to 9 and sets the hash size and the number of symbols in a block; 0 means 8, zlib's default.
	MemLevel int
	// WindowBits is 8 to 15; 0 means 15. As in zlib, 8 is taken as 9.
	WindowBits int
	// Strategy is one of the Strategy constants.
	Strategy int
}

// Check returns nil or ErrParams.
func (p Params) Check() error {
	_, err := p.complete()
	return err
}

// complete fills in the defaults and refuses what cannot be.
func (p Params) complete() (Params, error) {
	if p.Variant == GNUGzip {
		p = Params{Variant: GNUGzip, Level: p.Level, MemLevel: 8, WindowBits: 15}
	}
	if p.MemLevel == 0 {
		p.MemLevel = 8
	}
	if p.WindowBits == 0 {
		p.WindowBits = 15
	}
	if p.WindowBits == 8 {
		p.WindowBits = 9
	}
	ok := (p.Variant == GNUGzip || p.Variant == Zlib) &&
		p.Level >= 1 && p.Level <= 9 &&
		p.MemLevel >= 1 && p.MemLevel <= 9 &&
		p.WindowBits >= 9 && p.WindowBits <= 15 &&
		p.Strategy >= StrategyDefault && p.Strategy <= StrategyFixed
	if !ok {
		return p, fmt.Errorf("%w: %s level %d, memory level %d, window bits %d, strategy %d",
			ErrParams, p.Variant, p.Level, p.MemLevel, p.WindowBits, p.Strategy)
	}
	return p, nil
}

// effort is how hard a level searches. Both programs have had the same table since 1993.
type effort struct {
	good  int  // a match this long makes the next search four times shorter
	lazy  int  // a match this long is taken without trying the next position; fast: longest match whose strings are indexed
	nice  int  // a match this long ends the search
	chain int  // candidates looked at
	wait  bool // take a match only when the next position has none better
}

// efforts returns the table row of a level.
func efforts(level int) effort {
	return [...]effort{
		1: {4, 4, 8, 4, false},
		2: {4, 5, 16, 8, false},
		3: {4, 6, 32, 32, false},
		4: {4, 4, 16, 16, true},
		5: {8, 16, 32, 32, true},
		6: {8, 16, 128, 128, true},
		7: {8, 32, 128, 256, true},
		8: {32, 128, 258, 1024, true},
		9: {32, 258, 258, 4096, true},
	}[level]
}
