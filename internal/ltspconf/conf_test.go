package ltspconf

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func parse(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestHeaders(t *testing.T) {
	tests := map[string]struct{ line, name, function string }{
		"plain":            {"[clients]", "clients", "section_clients"},
		"spaces before":    {"   [Clients]", "clients", "section_clients"},
		"text behind":      {"[pc01] text", "pc01text", "section_pc01text"},
		"comment":          {"[pc01] # the first", "pc01", "section_pc01"},
		"comment within":   {"[a#b]", "a", "section_a"},
		"spaces within":    {"[ my pc ]", "mypc", "section_mypc"},
		"character class":  {"[pc0[1-3]]", "pc01-3", "section_pc01_3"},
		"alternatives":     {"[b8:27:eb:*|DC:A6:32:*]", "b8:27:eb:*|dc:a6:32:*", "section_b8_27_eb___dc_a6_32__"},
		"applet":           {"[initrd-bottom/library?]", "initrd-bottom/library?", "section_initrd_bottom_library_"},
		"accents":          {"[b\xc3\xbcro]", "bro", "section_bro"},
		"carriage return":  {"[clients]\r", "clients", "section_clients"},
		"second bracket":   {"[a][b]", "ab", "section_ab"},
		"test of a file":   {"[ -f /x ] && A=1", "-f/xa1", "section__f_xa1"},
		"quotes and $":     {`["$a"]`, "a", "section_a"},
		"what LTSP allows": {"[-*./:?@_|x]", "-*./:?@_|x", "section_________" + "_x"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := parse(t, tt.line+"\nA=1\n")
			want := []Section{{Name: tt.name, Function: tt.function, Line: 1, End: 2, Header: tt.line}}
			if diff := cmp.Diff(want, f.Sections); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLinesThatAreNoHeaders(t *testing.T) {
	for _, l := range []string{"\t[clients]", "x [clients]", "[clients", "# [clients]", "test [a]", "]["} {
		if f := parse(t, l); len(f.Sections) != 0 {
			t.Errorf("%q became section %q", l, f.Sections[0].Name)
		}
	}
}

func TestLines(t *testing.T) {
	tests := []struct{ line, want string }{
		{"A=1", "A=1"},
		{"A = 1", "A=1"},
		{"A  =  x = y", "A=x = y"},
		{"A =", "A="},
		{"1a = b", "1a=b"},
		{" = b", "=b"},
		{" A = b", " A = b"},
		{"A\t= b", "A\t= b"},
		{"A =\tb", "A=\tb"},
		{"A += b", "A += b"},
		{"export A = b", "export A = b"},
		{"A=b\r", "A=b\r"},
		{"INCLUDE=crt", `_ltsp_call_7 "crt"`},
		{"Include = CRT monitor # old", `_ltsp_call_7 "crtmonitor"`},
		{`INCLUDE="a$b"`, `_ltsp_call_7 "ab"`},
		{"INCLUDE =", `_ltsp_call_7 ""`},
		{" INCLUDE=crt", " INCLUDE=crt"},
		{"INCLUDES=crt", "INCLUDES=crt"},
		{"INCLUDE#=crt", "INCLUDE#=crt"},
		{"INCLUDE= #x=y", `_ltsp_call_7 ""`},
	}
	for _, tt := range tests {
		got := strings.Split(string(parse(t, tt.line+"\n").Translate(7)), "\n")
		if got[LineOffset] != tt.want {
			t.Errorf("%q became %q, want %q", tt.line, got[LineOffset], tt.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	tests := map[string]struct {
		text string
		kind error
		line int
	}{
		"NUL":                  {"A=1\nB=\x00", ErrSyntax, 2},
		"no name":              {"\n[]", ErrSyntax, 2},
		"deleted name":         {"[\xc3\xbc]", ErrSyntax, 1},
		"empty alternative":    {"[a||b]", ErrSyntax, 1},
		"trailing bar":         {"[a|]", ErrSyntax, 1},
		"too large":            {strings.Repeat("#", MaxBytes+1), ErrLimit, 0},
		"section explosion":    {strings.Repeat("[a]\n", MaxSections+1), ErrLimit, MaxSections + 1},
		"long section":         {"[" + strings.Repeat("a", MaxName+1) + "]", ErrLimit, 1},
		"long include":         {"INCLUDE=" + strings.Repeat("a", MaxName+1), ErrLimit, 1},
		"ten megabytes, valid": {strings.Repeat("A=1\n", 2_500_000), ErrLimit, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(tt.text))
			var e *Error
			if !errors.As(err, &e) || !errors.Is(err, tt.kind) || e.Line != tt.line {
				t.Errorf("got %v, want %v in line %d", err, tt.kind, tt.line)
			}
		})
	}
}

func TestMatch(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"pc01", "pc01", true},
		{"pc01", "PC01", false},
		{"pc*", "pc", true},
		{"pc??", "pc01", true},
		{"pc??", "pc011", false},
		{"*", "", true},
		{"?", "", false},
		{"52:54:00:*|pc*", "pc9", true},
		{"*-*-*", "a-b-c", true},
		{"*a*b", "xaab", true},
		{"*a*b", "xaba", false},
		{"init/*", "init/a/b", true},
		{"a", "", false},
	}
	for _, tt := range tests {
		if got := Match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("Match(%q, %q) = %v", tt.pattern, tt.name, got)
		}
	}
}

func TestLookupTakesTheFirstInTheFile(t *testing.T) {
	f := parse(t, "[c*]\nA=1\n[clients]\nA=2\n[pc01]\n[PC01]\n[unnamed]\n")
	for name, want := range map[string]int{"clients": 0, "crt": 0, "pc01": 2, "x": -1, "unnamed": -1} {
		if got := f.Lookup(name); got != want {
			t.Errorf("Lookup(%q) = %d, want %d", name, got, want)
		}
	}
}

func TestSectionAt(t *testing.T) {
	f := parse(t, "A=1\n[a]\nB=2\n[b]\n[c]\nC=1")
	for line, want := range map[int]int{1: -1, 2: 0, 3: 0, 4: 1, 5: 2, 6: 2} {
		if got := f.SectionAt(line); got != want {
			t.Errorf("SectionAt(%d) = %d, want %d", line, got, want)
		}
	}
}

func FuzzTranslate(f *testing.F) {
	for _, s := range []string{"", "[a]\nB = 1\nINCLUDE=c\n[c]\n", "A='\n[x] y\n'\n", "[ -f x ] && y\n", "[a|b*?]\r\n = \n", "include=[#"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrLimit) {
				t.Errorf("no kind: %v", err)
			}
			return
		}
		got := strings.Split(string(file.Translate(0)), "\n")
		in := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		if len(text) > 0 && file.Lines() != len(in) {
			t.Fatalf("%d lines of %d", file.Lines(), len(in))
		}
		for n := 1; n <= file.Lines(); n++ {
			line := got[n-1+LineOffset]
			if !strings.HasPrefix(line, "}; section_") && !strings.HasPrefix(line, "_ltsp_call_0 ") && len(line) > len(in[n-1]) {
				t.Errorf("line %d %q became %q", n, in[n-1], line)
			}
		}
		for _, s := range file.Sections {
			if file.SectionAt(s.Line) < 0 {
				t.Errorf("section %q lies nowhere", s.Name)
			}
			file.Lookup(s.Name)
		}
	})
}
