package printer

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrint(t *testing.T) {
	type row struct {
		Name  string `json:"name"`
		Count int    `json:"count"`
	}
	view := View{
		Value:   []row{{"lab", 3}, {"true", 0}},
		Columns: []string{"NAME", "COUNT"},
		Rows:    [][]string{{"lab", "3"}, {"with\x1b[2Jescape", ""}},
	}
	tests := []struct {
		format Format
		want   string
	}{
		{Table, "NAME            COUNT\nlab             3\nwith?[2Jescape  -\n"},
		{JSON, "[\n  {\n    \"name\": \"lab\",\n    \"count\": 3\n  },\n  {\n    \"name\": \"true\",\n    \"count\": 0\n  }\n]\n"},
		{YAML, "- name: lab\n  count: 3\n- name: \"true\"\n  count: 0\n"},
	}
	for _, tt := range tests {
		t.Run(string(tt.format), func(t *testing.T) {
			var b strings.Builder
			if err := Print(&b, tt.format, view); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, b.String()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseFormat(t *testing.T) {
	if _, err := ParseFormat("xml"); err == nil {
		t.Error("xml accepted")
	}
	if f, err := ParseFormat("yaml"); err != nil || f != YAML {
		t.Errorf("yaml gives %q, %v", f, err)
	}
}
