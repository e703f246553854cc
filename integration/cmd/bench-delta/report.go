package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// row is what one tool did with one transition.
type row struct {
	Transition string `json:"transition"`
	Tool       string `json:"tool"`
	Full       int64  `json:"image_bytes"` // of the new image
	result
	// OfBestPeer is the wire in percent of that of the best tool that is not ours; 0 when none ran.
	OfBestPeer float64 `json:"percent_of_best_peer,omitempty"`
}

// report is everything that one run found out.
type report struct {
	Variant string   `json:"variant"`
	Rows    []row    `json:"rows"`
	Goals   []judged `json:"goals"`
}

// compare fills in how each row stands to the best one of other people's tools on the same transition.
func (r *report) compare() {
	best := map[string]int64{}
	for _, row := range r.Rows {
		if known := best[row.Transition]; row.Tool != (ours{}).Name() && (known == 0 || row.Wire < known) {
			best[row.Transition] = row.Wire
		}
	}
	for i := range r.Rows {
		if peer := best[r.Rows[i].Transition]; peer > 0 {
			r.Rows[i].OfBestPeer = 100 * float64(r.Rows[i].Wire) / float64(peer)
		}
	}
}

// results are the rows by transition and tool.
func (r *report) results() map[string]map[string]result {
	all := map[string]map[string]result{}
	for _, row := range r.Rows {
		if all[row.Transition] == nil {
			all[row.Transition] = map[string]result{}
		}
		all[row.Transition][row.Tool] = row.result
	}
	return all
}

// missed tells whether a goal was not met.
func (r *report) missed() bool {
	for _, g := range r.Goals {
		if g.Verdict == verdictMissed {
			return true
		}
	}
	return false
}

func (r *report) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func (r *report) writeTable(w io.Writer) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "update\ttool\twire bytes\tof it overhead\t% of image\t% of best peer\tCPU s sender\treceiver\tpeak MB sender\treceiver\tfirst read at\t")
	for i, row := range r.Rows {
		if i > 0 && row.Transition != r.Rows[i-1].Transition {
			fmt.Fprintln(t, strings.Repeat("\t", 11))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.3f\t%s\t%.1f\t%.1f\t%s\t%s\t%s\t\n", row.Transition, name(row), grouped(row.Wire), positive(row.Overhead),
			100*float64(row.Wire)/float64(row.Full), percent(row.OfBestPeer), row.Sender.CPUSeconds, row.Receiver.CPUSeconds,
			peak(row.Sender, row.Shared), peak(row.Receiver, row.Shared), positive(row.FirstRead))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	b.WriteString("\n* measured by an earlier run   = both sides measured together   < not more than what starts the program\n")
	if len(r.Goals) == 0 {
		b.WriteString("No goals are set for these updates of the corpus \"" + r.Variant + "\".\n")
	}
	for _, g := range r.Goals {
		b.WriteString(g.String() + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func name(r row) string {
	if r.Reused {
		return r.Tool + " *"
	}
	return r.Tool
}

func peak(u usage, shared bool) string {
	sign := ""
	switch {
	case u.PeakBelow:
		sign = "<"
	case shared:
		sign = "="
	}
	return fmt.Sprintf("%s%.0f", sign, megabytes(u.PeakBytes))
}

func percent(p float64) string {
	if p == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", p)
}

func positive(n int64) string {
	if n == 0 {
		return "-"
	}
	return grouped(n)
}

// grouped writes a number with a comma after each three digits.
func grouped(n int64) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
