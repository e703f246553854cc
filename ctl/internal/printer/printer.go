// Package printer shows lists and objects to people (aligned tables) and to programs (JSON, YAML). Only ltspctl uses it.
package printer

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Format is how output looks.
type Format string

// Formats.
const (
	Table Format = "table"
	JSON  Format = "json"
	YAML  Format = "yaml"
)

// ParseFormat reads the value of -o.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Table, JSON, YAML:
		return f, nil
	}
	return "", fmt.Errorf("output format %q: want table, json or yaml", s)
}

// A View is something to print: Value for programs (its JSON tags name the fields), Columns and Rows for people. A row may be
// shorter than the columns.
type View struct {
	Value   any
	Columns []string
	Rows    [][]string
}

// Print writes the view.
func Print(w io.Writer, f Format, v View) error {
	switch f {
	case JSON:
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v.Value)
	case YAML:
		return printYAML(w, v.Value)
	default:
		return printTable(w, v)
	}
}

// printYAML goes through JSON, so that both formats have the same field names.
func printYAML(w io.Writer, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	var node yaml.Node
	if err := yaml.Unmarshal(data, &node); err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	blockStyle(&node)
	out, err := yaml.Marshal(&node)
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	_, err = w.Write(out)
	return err
}

// blockStyle undoes the flow style and the quotes that JSON input leaves on the nodes.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		blockStyle(c)
	}
}

func printTable(w io.Writer, v View) error {
	widths := make([]int, len(v.Columns))
	all := append([][]string{v.Columns}, v.Rows...)
	for _, row := range all {
		for i, cell := range row {
			if i < len(widths) {
				widths[i] = max(widths[i], utf8.RuneCountInString(clean(cell)))
			}
		}
	}
	for _, row := range all {
		var b strings.Builder
		for i := range min(len(row), len(widths)) {
			cell := clean(row[i])
			b.WriteString(cell)
			b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// clean keeps what clients and satellites report from moving the cursor of the admin's terminal.
func clean(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
