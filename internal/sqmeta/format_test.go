package sqmeta_test

import (
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
)

// TestFormatExample holds the worked example of FORMAT.md against the image it is about, both ways.
func TestFormatExample(t *testing.T) {
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(doc), "## Example")
	want := make(map[string]string)
	for _, line := range regexp.MustCompile(`(?m)^    ([a-z ]+[a-z])  +([0-9a-f ]+)$`).FindAllStringSubmatch(text, -1) {
		want[line[1]] = strings.ReplaceAll(line[2], " ", "")
	}
	img, err := os.ReadFile("testdata/example.squashfs")
	if err != nil {
		t.Fatal(err)
	}
	cols, err := parse(t, img).Columns()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for i, c := range cols {
		if len(c.Data) > 0 {
			got[c.Name] = hex.EncodeToString(c.Data)
		}
		if cols[i].Data, err = hex.DecodeString(want[c.Name]); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	im, err := sqmeta.Rebuild(cols, zlibMetadata(t))
	if err != nil {
		t.Fatal(err)
	}
	same(t, img, im)
}
