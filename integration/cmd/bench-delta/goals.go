package main

import "fmt"

// transition is one update that is measured.
type transition struct {
	ID         string // on the command line and in the output
	Old, New   string // versions of the corpus
	Compressor string
	// NewContent is how many bytes of the update exist nowhere in the old image and do not compress; no tool can save them.
	NewContent int64
}

func (t transition) String() string { return t.Old + "->" + t.New + " " + t.Compressor }

func transitions() []transition {
	return []transition{
		{ID: "w", Old: "v1", New: "w", Compressor: "zstd"},
		{ID: "v2", Old: "v1", New: "v2", Compressor: "zstd"},
		{ID: "v3", Old: "v2", New: "v3", Compressor: "zstd"},
		{ID: "v4", Old: "v3", New: "v4", Compressor: "zstd", NewContent: wallpaper},
		{ID: "w-gzip", Old: "v1", New: "w", Compressor: "gzip"},
	}
}

// wallpaper is what v4 adds that does not compress.
const wallpaper = 400_000

// goal is a limit for one figure of one transition of the desktop corpus.
type goal struct {
	Transition string
	Text       string
	Unit       string
	Limit      float64
	// value gives the figure, from our result and, when it is needed, xdelta3's.
	value  func(ours, xdelta result) float64
	versus bool // xdelta3's result is needed
}

func wireRatio(ours, xdelta result) float64 { return 100 * float64(ours.Wire) / float64(xdelta.Wire) }

func goals() []goal {
	return []goal{
		{"w", "wire, of xdelta3's", "%", 8, wireRatio, true},
		{"w", "wire", "bytes", 2_000_000, func(o, _ result) float64 { return float64(o.Wire) }, false},
		{"w", "CPU of the receiver", "s", 20, func(o, _ result) float64 { return o.Receiver.CPUSeconds }, false},
		{"w", "memory of the receiver", "MB", 512, func(o, _ result) float64 { return megabytes(o.Receiver.PeakBytes) }, false},
		{"w", "CPU of the sender", "s", 90, func(o, _ result) float64 { return o.Sender.CPUSeconds }, false},
		{"w", "memory of the sender", "MB", 1000, func(o, _ result) float64 { return megabytes(o.Sender.PeakBytes) }, false},
		{"w", "received before the first read", "bytes", 100_000, func(o, _ result) float64 { return float64(o.FirstRead) }, false},
		{"v2", "wire, of xdelta3's", "%", 33, wireRatio, true},
		{"v3", "wire, of xdelta3's", "%", 59, wireRatio, true},
		{"v4", "wire beyond new content", "bytes", 5000, func(o, _ result) float64 { return float64(o.Wire - wallpaper) }, false},
		{"w-gzip", "wire, of xdelta3's", "%", 10, wireRatio, true},
	}
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }

// Verdicts on a goal.
const (
	verdictBeaten  = "beaten" // by a further tenth
	verdictMet     = "met"
	verdictMissed  = "missed"
	verdictUnknown = "not measured"
)

// judged is a goal with what was measured.
type judged struct {
	Transition string  `json:"transition"`
	Text       string  `json:"goal"`
	Unit       string  `json:"unit"`
	Limit      float64 `json:"limit"`
	Value      float64 `json:"value"`
	Verdict    string  `json:"verdict"`
}

func (j judged) String() string {
	if j.Verdict == verdictUnknown {
		return fmt.Sprintf("%s: %s: %s", j.Transition, j.Text, j.Verdict)
	}
	digits := 0
	if j.Unit != "bytes" {
		digits = 1
	}
	return fmt.Sprintf("%s: %s: %.*f %s, goal %.*f: %s", j.Transition, j.Text, digits, j.Value, j.Unit, digits, j.Limit, j.Verdict)
}

// judge holds results, by transition and tool, against the goals of the transitions that were measured.
func judge(results map[string]map[string]result, list []goal) []judged {
	var all []judged
	for _, g := range list {
		tools, measured := results[g.Transition]
		if !measured {
			continue
		}
		j := judged{Transition: g.Transition, Text: g.Text, Unit: g.Unit, Limit: g.Limit, Verdict: verdictUnknown}
		o, have := tools[ours{}.Name()]
		x, haveOther := tools["xdelta3"]
		if have && (haveOther || !g.versus) {
			j.Value = g.value(o, x)
			j.Verdict = verdict(j.Value, g.Limit)
		}
		all = append(all, j)
	}
	return all
}

func verdict(value, limit float64) string {
	switch {
	case value <= limit*0.9:
		return verdictBeaten
	case value <= limit:
		return verdictMet
	}
	return verdictMissed
}
