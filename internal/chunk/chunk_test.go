package chunk_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
)

func TestIDSpelling(t *testing.T) {
	t.Parallel()
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	id := chunk.Sum(nil)
	if id.String() != empty {
		t.Errorf("String gives %s", id)
	}
	if got, err := chunk.ParseID(empty); err != nil || got != id {
		t.Errorf("ParseID gives %v, %v", got, err)
	}
	for _, bad := range []string{"", empty[1:], empty + "0", strings.ToUpper(empty), empty[:63] + "g", " " + empty[1:]} {
		if _, err := chunk.ParseID(bad); !errors.Is(err, chunk.ErrInvalidID) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	b, err := json.Marshal(id)
	if err != nil || string(b) != `"`+empty+`"` {
		t.Errorf("JSON %s, %v", b, err)
	}
	var back chunk.ID
	if err := json.Unmarshal(b, &back); err != nil || back != id {
		t.Errorf("from JSON %v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`"xyz"`), &back); !errors.Is(err, chunk.ErrInvalidID) {
		t.Errorf("bad JSON: %v", err)
	}
	if !(chunk.ID{}).IsZero() || id.IsZero() {
		t.Error("IsZero")
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	good := []byte("some bytes")
	if err := chunk.Verify(chunk.Sum(good), good); err != nil {
		t.Error(err)
	}
	bad := []byte("some bites")
	err := chunk.Verify(chunk.Sum(good), bad)
	var m *chunk.MismatchError
	if !errors.As(err, &m) || m.Want != chunk.Sum(good) || m.Got != chunk.Sum(bad) || m.Size != len(bad) {
		t.Errorf("%v", err)
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	f.Add("E3")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := chunk.ParseID(s)
		if err == nil && id.String() != s {
			t.Errorf("%q became %s", s, id)
		}
	})
}
