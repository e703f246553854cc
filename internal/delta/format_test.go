package delta

import (
	"bytes"
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/mixcode"
)

// exampleLine is a row of the example in FORMAT.md: offset and bytes in hexadecimal, then what they mean.
var exampleLine = regexp.MustCompile("(?m)^\\| ([0-9a-f]{4}) \\| `([0-9a-f .]+)` \\| ([^|]+) \\|$")

// TestFormatExample compares the example in FORMAT.md with the golden delta that it describes.
func TestFormatExample(t *testing.T) {
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	golden := testdata(t, "golden-2.delta")
	rows := exampleLine.FindAllSubmatch(doc, -1)
	if len(rows) < 20 {
		t.Fatalf("FORMAT.md has %d rows of example, want the whole delta", len(rows))
	}
	end := 0
	for _, row := range rows {
		at, err := hex.DecodeString(string(row[1]))
		if err != nil {
			t.Fatal(err)
		}
		off := int(at[0])<<8 | int(at[1])
		if off != end {
			t.Errorf("row %s follows %04x", row[1], end)
		}
		text, long := strings.CutSuffix(strings.ReplaceAll(string(row[2]), " ", ""), "...")
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(golden[off:], b) {
			t.Errorf("at %04x the delta has %x, the example %x (%s)", off, golden[off:off+len(b)], b, row[3])
		}
		end = off + len(b)
		if long {
			end = exampleEnd(t, string(row[3]), off)
		}
	}
	if end != len(golden) {
		t.Errorf("example ends at %04x of %04x", end, len(golden))
	}
}

// exampleLength is how a row says how many bytes an abbreviated field has.
var exampleLength = regexp.MustCompile(`\((\d+) bytes\)`)

func exampleEnd(t *testing.T, text string, off int) int {
	t.Helper()
	m := exampleLength.FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("row %04x does not say its length", off)
	}
	n := 0
	for _, c := range m[1] {
		n = 10*n + int(c-'0')
	}
	return off + n
}

// TestFormatNamesItsCoder: format version 1 contains streams of mixcode version 1 for ever.
func TestFormatNamesItsCoder(t *testing.T) {
	if formatVersion != 2 || mixcode.Version != 1 {
		t.Errorf("format %d with mixcode %d: FORMAT.md and the golden deltas know 2 with 1", formatVersion, mixcode.Version)
	}
}
