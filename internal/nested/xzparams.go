package nested

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/lzma"
)

// XZParams says how the content of an XZ stream is packed.
type XZParams struct {
	Dict   byte       // size of the dictionary as a code, The .xz File Format 1.1.0 section 5.3.1; at most maxDictCode
	X86    bool       // the x86 branch filter comes first
	Check  lzma.Check // of the content
	Header int        // size of the block's header if that tells the lengths, as xz does when it works in threads; or 0
	Preset XZPreset
}

// XZPreset is what a preset of xz means besides the size of the dictionary. The numbers are kept in deltas.
type XZPreset uint8

// The presets that differ. From Preset6 on to 9 they are alike, and so are the extreme ones except for 3 and 5.
const (
	Preset0 XZPreset = 1 + iota
	Preset1
	Preset2
	Preset3
	Preset4
	Preset5
	Preset6
	Preset5e
	Preset6e
)

const (
	maxDictCode = 36 // lzma.MaxDict

	// A block's header that tells the lengths. It may be longer than it had to be.
	minXZSizes = 12
	maxXZSizes = 32
)

// xzChecks are the kinds of checksum by their number in the parameters.
var xzChecks = [...]lzma.Check{lzma.CheckNone, lzma.CheckCRC32, lzma.CheckCRC64, lzma.CheckSHA256}

// EncodeXZParams packs p, which must be what DecodeXZParams can return, into 16 bits: dictionary (6 bits from the lowest on), x86 (1),
// kind of checksum (2: none, CRC32, CRC64, SHA-256), preset (4), header (3: 0, or its size in units of four bytes, less 2).
func EncodeXZParams(p XZParams) uint16 {
	v := uint16(p.Dict) | uint16(slices.Index(xzChecks[:], p.Check))<<7 | uint16(p.Preset)<<9
	if p.X86 {
		v |= 1 << 6
	}
	if p.Header != 0 {
		v |= uint16(p.Header/4-2) << 13
	}
	return v
}

// DecodeXZParams is the inverse of EncodeXZParams. It returns ErrStream for what is no encoder.
func DecodeXZParams(v uint16) (XZParams, error) {
	p := XZParams{
		Dict:   byte(v & 63),
		X86:    v>>6&1 != 0,
		Check:  xzChecks[v>>7&3],
		Preset: XZPreset(v >> 9 & 15),
	}
	if header := int(v >> 13); header != 0 {
		p.Header = 4 * (header + 2)
	}
	if p.Dict > maxDictCode || p.Preset < Preset0 || p.Preset > Preset6e || p.Header > maxXZSizes {
		return p, fmt.Errorf("%w: xz parameters %#04x", ErrStream, v)
	}
	return p, nil
}

// Stream is p as package lzma knows it.
func (p XZParams) Stream() lzma.Stream {
	return lzma.Stream{Params: p.encoder(), Check: p.Check, X86: p.X86, Sizes: p.Header != 0, Header: p.Header}
}

// paramsOf returns the parameters of a stream but for the preset, or false if no preset makes such a one.
func paramsOf(info lzma.Info) (p XZParams, ok bool) {
	p = XZParams{Check: info.Check, X86: info.X86}
	if info.Header == 0 {
		return p, true // no block: there is no content
	}
	for p.Dict < maxDictCode && dictSize(p.Dict) != info.Dict {
		p.Dict++
	}
	if info.Sizes {
		p.Header = info.Header
	}
	usual := info.LC < 0 || info.LC == 3 && info.LP == 0 && info.PB == 2
	return p, usual && dictSize(p.Dict) == info.Dict && (!info.Sizes || p.Header >= minXZSizes && p.Header <= maxXZSizes)
}

// encoder returns the parameters of the LZMA encoder.
func (p XZParams) encoder() lzma.Params {
	level, extreme := int(p.Preset-Preset0), false
	if p.Preset >= Preset5e {
		level, extreme = int(p.Preset-Preset5e)+5, true
	}
	e, err := lzma.Preset(level, extreme)
	if err != nil {
		panic(err) // the table of presets is wrong
	}
	e.Dict = dictSize(p.Dict)
	return e
}

// dictSize returns the size that a code stands for.
func dictSize(code byte) uint32 { return (2 | uint32(code&1)) << (code/2 + 11) }

// presetOf returns what the preset of xz is here, and its dictionary.
func presetOf(level int, extreme bool) (XZPreset, uint32) {
	p, err := lzma.Preset(level, extreme)
	if err != nil {
		panic(err)
	}
	switch {
	case extreme && (level == 3 || level == 5):
		return Preset5e, p.Dict
	case extreme:
		return Preset6e, p.Dict
	}
	return Preset0 + XZPreset(min(level, 6)), p.Dict
}

// xzPresets lists the presets in the order that makes the search short: first, if it is not 0, the default, those that have this
// dictionary, then the others.
func xzPresets(first XZPreset, dict byte) []XZPreset {
	list := []XZPreset{cmp.Or(first, Preset6), Preset6}
	for _, extreme := range []bool{false, true} {
		for level := range 10 {
			if p, size := presetOf(level, extreme); size == dictSize(dict) {
				list = append(list, p)
			}
		}
	}
	list = append(list, Preset6e, Preset5, Preset4, Preset5e, Preset3, Preset2, Preset1, Preset0)
	var once []XZPreset
	for _, p := range list {
		if !slices.Contains(once, p) {
			once = append(once, p)
		}
	}
	return once
}
