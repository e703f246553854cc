package delta

import (
	"encoding/binary"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/mixcode"
)

// packExpansions codes the declared streams of OLD, which are ordered by file and offset.
func packExpansions(exps []stream, old *model) []byte {
	cols := make([][]uint64, 6)
	var file int32
	for _, st := range exps {
		vals := [6]uint64{uint64(st.file - file), uint64(st.off), uint64(old.files[st.file].Size - st.off - st.n), uint64(st.plain), uint64(st.codec), uint64(st.params)}
		for i, v := range vals {
			cols[i] = append(cols[i], v)
		}
		file = st.file
	}
	b := binary.AppendUvarint(nil, uint64(len(exps)))
	if len(exps) == 0 {
		return b
	}
	for _, c := range cols {
		b = packInts(b, c)
	}
	return b
}

// parseExpansions inverts packExpansions.
func parseExpansions(b []byte, old *model) ([]stream, error) {
	r := newFields(b, mixcode.NewCoder())
	n := r.Int("number of streams", maxExpansions)
	if n == 0 {
		return nil, r.Err()
	}
	var cols [6][]uint64
	for i := range cols {
		cols[i] = r.ints(n)
	}
	if r.Err() != nil {
		return nil, fmt.Errorf("streams of the old image: %w: %w", r.Err(), ErrFormat)
	}
	exps := make([]stream, n)
	var file uint64
	for i := range exps {
		file += cols[0][i]
		if cols[0][i] >= uint64(len(old.files)) || file >= uint64(len(old.files)) {
			return nil, fmt.Errorf("stream %d of no old file: %w", i, ErrFormat)
		}
		size := uint64(old.files[file].Size)
		off, behind, plain := cols[1][i], cols[2][i], cols[3][i]
		if off > size || behind > size-off || size-off-behind > maxNestedStored || plain > maxNestedPlain {
			return nil, fmt.Errorf("stream %d beyond its file: %w", i, ErrFormat)
		}
		exps[i] = stream{file: int32(file), off: int64(off), n: int64(size - off - behind), plain: int64(plain)}
		if err := exps[i].setCodec(cols[4][i], cols[5][i]); err != nil {
			return nil, err
		}
	}
	return exps, nil
}
