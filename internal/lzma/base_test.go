package lzma

import (
	"bytes"
	"testing"
)

// TestBase has inputs whose positions are close to the greatest, where the count begins anew.
func TestBase(t *testing.T) {
	data := bytes.Repeat([]byte("the count of positions begins anew; "), 3000)
	p, err := Preset(6, false)
	if err != nil {
		t.Fatal(err)
	}
	var e Encoder
	defer e.Close()
	if err := e.Reset(p); err != nil {
		t.Fatal(err)
	}
	want, err := e.AppendLZMA2(nil, data)
	if err != nil {
		t.Fatal(err)
	}
	began := false
	e.base = 1<<32 - 1 - uint32(5*len(data))
	for range 6 {
		before := e.base
		got, err := e.AppendLZMA2(nil, data)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("base %d: %d bytes, want %d: %v", before, len(got), len(want), err)
		}
		began = began || e.base < before
	}
	if !began {
		t.Error("the count did not begin anew")
	}
}
