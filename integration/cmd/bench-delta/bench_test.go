package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestJudge(t *testing.T) {
	mine := result{Wire: 1_500_000, FirstRead: 60_000, Sender: usage{CPUSeconds: 95, PeakBytes: 1_000_000_000}, Receiver: usage{CPUSeconds: 19, PeakBytes: 512_000_000}}
	theirs := result{Wire: 20_000_000}
	verdicts := func(results map[string]map[string]result) map[string]string {
		got := map[string]string{}
		for _, j := range judge(results, goals()) {
			got[j.Transition+" "+j.Text] = j.Verdict
		}
		return got
	}
	for _, test := range []struct {
		name    string
		results map[string]map[string]result
		want    map[string]string
	}{
		{"nothing", nil, map[string]string{}},
		{"week", map[string]map[string]result{"w": {"ltsp": mine, "xdelta3": theirs}}, map[string]string{
			"w wire, of xdelta3's": "met", "w wire": "beaten", "w CPU of the receiver": "met", "w memory of the receiver": "met",
			"w CPU of the sender": "missed", "w memory of the sender": "met", "w received before the first read": "beaten",
		}},
		{"without xdelta3", map[string]map[string]result{"v2": {"ltsp": mine}, "v3": {"ltsp": mine, "zstd": theirs}}, map[string]string{
			"v2 wire, of xdelta3's": "not measured", "v3 wire, of xdelta3's": "not measured",
		}},
		{"without ours", map[string]map[string]result{"w-gzip": {"xdelta3": theirs}}, map[string]string{"w-gzip wire, of xdelta3's": "not measured"}},
		{"ratios", map[string]map[string]result{
			"v2":     {"ltsp": {Wire: 330}, "xdelta3": {Wire: 1000}},
			"v3":     {"ltsp": {Wire: 591}, "xdelta3": {Wire: 1000}},
			"w-gzip": {"ltsp": {Wire: 90}, "xdelta3": {Wire: 1000}},
		}, map[string]string{"v2 wire, of xdelta3's": "met", "v3 wire, of xdelta3's": "missed", "w-gzip wire, of xdelta3's": "beaten"}},
		{"edits", map[string]map[string]result{"v4": {"ltsp": {Wire: 405_001}}}, map[string]string{"v4 wire beyond new content": "missed"}},
		{"edits that fit", map[string]map[string]result{"v4": {"ltsp": {Wire: 405_000}}}, map[string]string{"v4 wire beyond new content": "met"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, verdicts(test.results)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestJudgedText(t *testing.T) {
	for _, test := range []struct {
		in   judged
		want string
	}{
		{judged{"w", "wire", "bytes", 2e6, 1234567, verdictBeaten}, "w: wire: 1234567 bytes, goal 2000000: beaten"},
		{judged{"v2", "wire, of xdelta3's", "%", 33, 34.56, verdictMissed}, "v2: wire, of xdelta3's: 34.6 %, goal 33.0: missed"},
		{judged{"v2", "wire, of xdelta3's", "%", 33, 0, verdictUnknown}, "v2: wire, of xdelta3's: not measured"},
	} {
		if diff := cmp.Diff(test.want, test.in.String()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestParseStats(t *testing.T) {
	for _, test := range []struct {
		name, in string
		want     int64
		bad      bool
	}{
		{name: "grouped", in: "Literal data: 5 bytes\nTotal bytes sent: 12,839,716\nTotal bytes received: 1,004\n\nsent 12,839,716 bytes", want: 12_840_720},
		{name: "plain", in: "Total bytes sent: 7\nTotal bytes received: 8", want: 15},
		{name: "one missing", in: "Total bytes sent: 7\n", bad: true},
		{name: "no number", in: "Total bytes sent: many\nTotal bytes received: 8\n", bad: true},
		{name: "empty", bad: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseStats(test.in)
			if got != test.want || (err != nil) != test.bad {
				t.Errorf("got %d, %v", got, err)
			}
		})
	}
}

func TestParseTimes(t *testing.T) {
	for _, test := range []struct {
		name, in string
		want     float64
		bad      bool
	}{
		{name: "dash", in: "0m0.00s 0m0.01s\n1m2.50s 0m1.25s\n", want: 63.75},
		{name: "bash", in: "0m0.001s 0m0.002s\n0m0.250s 0m0.500s\n", want: 0.75},
		{name: "one line", in: "0m0.00s 0m0.01s\n", bad: true},
		{name: "empty", bad: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseTimes(test.in)
			if got != test.want || (err != nil) != test.bad {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestExpand(t *testing.T) {
	paths := map[string]string{"OLD": "/a b", "NEW": "/n", "PATCH": "/p", "OUT": "/o"}
	want := []string{"-q", "--long=31", "--patch-from=/a b", "/n", "-o", "/p"}
	if diff := cmp.Diff(want, expand("-q --long=31 --patch-from=OLD NEW -o PATCH", paths)); diff != "" {
		t.Error(diff)
	}
	for _, p := range patchers() {
		for _, line := range []string{p.(patcher).makeArgs, p.(patcher).useArgs} {
			if args := strings.Join(expand(line, paths), " "); !strings.Contains(args, "/a b") || !strings.Contains(args, "/p") {
				t.Errorf("%s: OLD or PATCH is not in %q", p.Name(), args)
			}
		}
	}
}

func TestFramed(t *testing.T) {
	for payload, want := range map[int64]int64{
		0: 0, 1: 5 + 31, 16 << 10: 5 + 31, 16<<10 + 1: 5 + 2*31, 256 << 10: 5 + 16*31, 256<<10 + 1: 2*5 + 17*31, 1 << 20: 4*5 + 64*31,
	} {
		if got := framed(payload); got != want {
			t.Errorf("framed(%d) = %d, want %d", payload, got, want)
		}
	}
}

// TestHeadBytes wants the manifest that is made up to be as long as one with four artifacts is, and a file's length when one is given.
func TestHeadBytes(t *testing.T) {
	if n, err := (ours{}).headBytes(); err != nil || n < 500 || n > 1500 {
		t.Errorf("made up: %d bytes, %v", n, err)
	}
	path := filepath.Join(t.TempDir(), "head")
	if err := os.WriteFile(path, make([]byte, 321), 0o644); err != nil {
		t.Fatal(err)
	}
	if n, err := (ours{manifest: path}).headBytes(); err != nil || n != 321 {
		t.Errorf("from a file: %d bytes, %v", n, err)
	}
}

func TestCompare(t *testing.T) {
	r := report{Rows: []row{
		{Transition: "w", Tool: "xdelta3", result: result{Wire: 200}}, {Transition: "w", Tool: "rsync", result: result{Wire: 300}},
		{Transition: "w", Tool: "ltsp", result: result{Wire: 20}}, {Transition: "v2", Tool: "ltsp", result: result{Wire: 20}},
	}}
	r.compare()
	var got []float64
	for _, row := range r.Rows {
		got = append(got, row.OfBestPeer)
	}
	if diff := cmp.Diff([]float64{100, 150, 10, 0}, got); diff != "" {
		t.Error(diff)
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -100: "-100"} {
		if got := grouped(n); got != want {
			t.Errorf("grouped(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	r := report{Variant: "desktop", Rows: []row{
		{Transition: "w", Tool: "rsync", Full: 1_000_000, result: result{Wire: 40_000, Shared: true, Sender: usage{1.5, 11e6, false}, Receiver: usage{0.5, 11e6, false}}},
		{Transition: "w", Tool: "ltsp", Full: 1_000_000, result: result{Wire: 2_000, Overhead: 800, FirstRead: 1_000, Sender: usage{9, 300e6, false}, Receiver: usage{3, 8e6, true}}},
		{Transition: "v2", Tool: "xdelta3", Full: 2_000_000, result: result{Wire: 50_000, Reused: true}},
	}, Goals: []judged{{"w", "wire", "bytes", 2e6, 2000, verdictBeaten}}}
	r.compare()
	var out strings.Builder
	if err := r.writeTable(&out); err != nil {
		t.Fatal(err)
	}
	var lines [][]string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Fields(line))
	}
	want := [][]string{
		{"w", "rsync", "40,000", "-", "4.000", "100.0", "1.5", "0.5", "=11", "=11", "-"},
		{"w", "ltsp", "2,000", "800", "0.200", "5.0", "9.0", "3.0", "300", "<8", "1,000"},
		{},
		{"v2", "xdelta3", "*", "50,000", "-", "2.500", "100.0", "0.0", "0.0", "0", "0", "-"},
	}
	if diff := cmp.Diff(want, lines[1:5]); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(out.String(), "w: wire: 2000 bytes, goal 2000000: beaten\n") {
		t.Errorf("no verdict in\n%s", out.String())
	}
	var again report
	out.Reset()
	if err := errors.Join(r.writeJSON(&out), json.Unmarshal([]byte(out.String()), &again)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, again, cmp.AllowUnexported(row{})); diff != "" {
		t.Error(diff)
	}
}

func TestSelect(t *testing.T) {
	all := append([]tool{rsync{}, casync{}}, patchers()...)
	got, err := selectTools(all, "zstd,rsync")
	if err != nil || len(got) != 2 || got[0].Name() != "rsync" || got[1].Name() != "zstd" {
		t.Errorf("tools: %v, %v", got, err)
	}
	for _, names := range []string{"", "rsync,ftp"} {
		if _, err := selectTools(all, names); err == nil {
			t.Errorf("tools %q were accepted", names)
		}
		if _, err := selectTransitions(names); err == nil {
			t.Errorf("steps %q were accepted", names)
		}
	}
	steps, err := selectTransitions("w-gzip,w")
	if err != nil || len(steps) != 2 || steps[0].ID != "w" || steps[1].ID != "w-gzip" {
		t.Errorf("steps: %v, %v", steps, err)
	}
}

func TestGoalsBelongToTransitions(t *testing.T) {
	for _, g := range goals() {
		if _, err := selectTransitions(g.Transition); err != nil {
			t.Errorf("goal %q: %v", g.Text, err)
		}
	}
}

// fake leaves bytes as its output.
type fake struct {
	output, identity string
}

func (fake) Name() string                               { return "fake" }
func (f fake) Identity(context.Context) (string, error) { return f.identity, nil }
func (f fake) Run(_ context.Context, _ pair, dir string) (result, error) {
	return result{Wire: 7}, os.WriteFile(filepath.Join(dir, output), []byte(f.output), 0o644)
}

func TestRunTool(t *testing.T) {
	scratch := t.TempDir()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, []byte("new image"), 0o644); err != nil {
		t.Fatal(err)
	}
	want, err := identify(image)
	if err != nil {
		t.Fatal(err)
	}
	r, err := runTool(t.Context(), fake{output: "new image"}, pair{}, want, scratch)
	if err != nil || r.Wire != 7 {
		t.Errorf("got %v, %v", r, err)
	}
	for _, wrong := range []string{"new imagE", "new image ", ""} {
		if _, err := runTool(t.Context(), fake{output: wrong}, pair{}, want, scratch); err == nil {
			t.Errorf("output %q was accepted", wrong)
		}
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestPeerCache(t *testing.T) {
	old, new := fileID{1, "aa"}, fileID{2, "bb"}
	reading := peerCache{dir: filepath.Join(t.TempDir(), "peers"), read: true}
	path := func(f fake, old, new fileID) string {
		p, err := reading.path(t.Context(), f, old, new)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := path(fake{identity: "1.0"}, old, new)
	if _, ok, err := reading.load(p); ok || err != nil {
		t.Errorf("empty cache: %v, %v", ok, err)
	}
	if err := reading.save(p, fake{}, old, new, result{Wire: 9}); err != nil {
		t.Fatal(err)
	}
	if r, ok, err := reading.load(p); !ok || err != nil || r.Wire != 9 || !r.Reused {
		t.Errorf("got %v, %v, %v", r, ok, err)
	}
	if _, ok, _ := (peerCache{dir: reading.dir}).load(p); ok {
		t.Error("read without being told to")
	}
	for name, other := range map[string]string{
		"another version":   path(fake{identity: "1.1"}, old, new),
		"another old image": path(fake{identity: "1.0"}, new, new),
		"another new image": path(fake{identity: "1.0"}, old, old),
	} {
		if other == p {
			t.Errorf("%s: same entry", name)
		}
	}
	if none := path(fake{}, old, new); none != "" {
		t.Errorf("a tool without identity has %s", none)
	}
	if err := os.WriteFile(p, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := reading.load(p); err == nil {
		t.Error("damaged entry was accepted")
	}
}

func TestMeasure(t *testing.T) {
	u, out, err := measure(t.Context(), t.TempDir(), "/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done")
	if err != nil || string(out) != "done\n" {
		t.Fatalf("printed %q: %v", out, err)
	}
	if u.CPUSeconds <= 0 || u.PeakBytes <= 0 || !u.PeakBelow {
		t.Errorf("usage of a shell: %+v", u)
	}
	if _, _, err := measure(t.Context(), t.TempDir(), "/bin/sh", "-c", "echo no reason >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "no reason") {
		t.Errorf("error of a program that ends with 3: %v", err)
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"-o", "xml"}, {"extra"}, {"-nonsense"}} {
		if _, err := parseFlags(args, &strings.Builder{}); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
	o, err := parseFlags([]string{"-variant", "desktop", "-o", "json"}, &strings.Builder{})
	if err != nil || o.variant != "desktop" || o.format != "json" {
		t.Errorf("got %+v, %v", o, err)
	}
}
