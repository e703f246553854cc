package ltspcorpus

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
)

func load(t *testing.T) []Case {
	t.Helper()
	cases, err := Load("testdata")
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

// each runs a test for each client of each case.
func each(t *testing.T, test func(t *testing.T, c Case, client Client, sources []ltspeval.Source)) {
	t.Helper()
	for _, c := range load(t) {
		for _, client := range c.Clients {
			t.Run(c.Name+"/"+client.Name, func(t *testing.T) {
				sources, err := c.Sources(client.Applet)
				if err != nil {
					t.Fatal(err)
				}
				test(t, c, client, sources)
			})
		}
	}
}

func TestEvaluate(t *testing.T) {
	each(t, func(t *testing.T, _ Case, client Client, sources []ltspeval.Source) {
		res, err := ltspeval.Evaluate(t.Context(), ltspeval.Input{Sources: sources, Subject: client.Subject()})
		if client.Error != "" {
			if !errors.Is(err, ltspeval.ErrSyntax) {
				t.Errorf("got %v, want a syntax error", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]string)
		for _, v := range res.Values {
			if v.Inexact != slices.Contains(client.Inexact, v.Name) {
				t.Errorf("%s: inexact is %v", v.Name, v.Inexact)
			}
			if _, differs := client.Differs[v.Name]; !differs && !v.Inexact {
				got[v.Name] = v.Value
			}
		}
		if diff := cmp.Diff(exact(client), got); diff != "" {
			t.Errorf("-expected +here\n%s%q", diff, res.Remarks)
		}
	})
}

// exact returns the values that are to be compared.
func exact(client Client) map[string]string {
	want := make(map[string]string)
	for name, v := range client.Values {
		if _, differs := client.Differs[name]; !differs && !slices.Contains(client.Inexact, name) {
			want[name] = v
		}
	}
	return want
}

func TestCorpusIsLarge(t *testing.T) {
	if n := len(load(t)); n < 40 {
		t.Errorf("%d cases", n)
	}
}
