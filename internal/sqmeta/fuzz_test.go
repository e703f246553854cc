package sqmeta_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
)

var small = sqmeta.Limits{MetadataBytes: 1 << 20}

// FuzzParse parses any file; what is accepted must survive the way through its columns.
func FuzzParse(f *testing.F) {
	for _, img := range golden(f) {
		f.Add(img)
	}
	f.Fuzz(func(t *testing.T, img []byte) {
		m, err := small.Parse(bytes.NewReader(img), int64(len(img)))
		if err != nil {
			return
		}
		for _, file := range m.Files() {
			for _, b := range append(file.Blocks, file.Fragment) {
				if b < -1 || int(b) >= len(m.Blocks()) {
					t.Fatalf("block %d of %d", b, len(m.Blocks()))
				}
			}
		}
		cols, err := sqmeta.Best(m, nil)
		if err != nil {
			t.Fatal(err)
		}
		im, err := sqmeta.Rebuild(cols, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(im.Head, m.Image().Head) || !bytes.Equal(im.Tail, m.Image().Tail) || im.TailOffset != m.Image().TailOffset {
			t.Fatal("other bytes come out")
		}
	})
}

// split takes columns apart that join put together; what is missing is empty.
func split(names []string, b []byte) []sqmeta.Column {
	var cols []sqmeta.Column
	for _, name := range names {
		var data []byte
		if len(b) >= 2 {
			n := min(int(binary.LittleEndian.Uint16(b)), len(b)-2)
			data, b = b[2:2+n], b[2+n:]
		}
		cols = append(cols, sqmeta.Column{Name: name, Data: data})
	}
	return cols
}

func join(cols []sqmeta.Column) []byte {
	var b []byte
	for _, c := range cols {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(c.Data)))
		b = append(b, c.Data...)
	}
	return b
}

// FuzzRebuild makes images from any columns.
func FuzzRebuild(f *testing.F) {
	names := make(map[byte][]string)
	for _, img := range golden(f) {
		m, err := sqmeta.Parse(bytes.NewReader(img), int64(len(img)))
		if err != nil {
			f.Fatal(err)
		}
		predicted, err := m.Columns()
		if err != nil {
			f.Fatal(err)
		}
		raw, err := m.RawColumns(nil)
		if err != nil {
			f.Fatal(err)
		}
		for _, cols := range [][]sqmeta.Column{predicted, raw, m.Verbatim()} {
			form := cols[0].Data[0]
			if names[form] == nil {
				for _, c := range cols[1:] {
					names[form] = append(names[form], c.Name)
				}
			}
			f.Add(form, join(cols[1:]))
		}
	}
	f.Fuzz(func(t *testing.T, form byte, b []byte) {
		cols := append([]sqmeta.Column{{Name: "form", Data: []byte{form}}}, split(names[form], b)...)
		im, err := small.Rebuild(cols, nil)
		if err != nil {
			return
		}
		if im.Size != im.TailOffset+int64(len(im.Tail)) || int64(len(im.Head)) > im.TailOffset || len(im.Tail) > 4<<20 {
			t.Fatalf("image of %d bytes: head of %d, tail of %d at %d", im.Size, len(im.Head), len(im.Tail), im.TailOffset)
		}
		if m, err := im.Meta(small); err == nil {
			m.Files()
		}
	})
}
