package delta

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestTurnCallsInverts(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for n := range 300 {
		b := make([]byte, n)
		for i := range b {
			b[i] = []byte{0xe8, 0xe9, 0, 0xff, byte(r.Uint32())}[r.IntN(5)]
		}
		got := bytes.Clone(b)
		turnCalls(got, false)
		turnCalls(got, true)
		if !bytes.Equal(got, b) {
			t.Fatalf("%x becomes %x", b, got)
		}
	}
}

func TestTurnCallsAlignsTargets(t *testing.T) {
	// Two calls of the function at position 100, from 0 and from 50.
	b := make([]byte, 60)
	b[0], b[1] = 0xe8, 95
	b[50], b[51] = 0xe8, 45
	turnCalls(b, false)
	if !bytes.Equal(b[0:5], []byte{0xe8, 100, 0, 0, 0}) || !bytes.Equal(b[50:55], b[0:5]) {
		t.Errorf("calls became %x and %x", b[0:5], b[50:55])
	}
	if looksLikeCode(b[:50:50]) != true || looksLikeCode(make([]byte, 1000)) {
		t.Error("code is not told from zeros")
	}
}
