package imagebuild

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWithoutPeople(t *testing.T) {
	have := accounts{
		"passwd":  "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\nanna:x:1000:1000:Anna:/home/anna:/bin/bash\nbert:x:1001:100::/home/bert:/bin/sh\n",
		"shadow":  "root:*:1::::::\nanna:$y$secret:1::::::\nbert:!:1::::::\n",
		"group":   "root:x:0:\nsudo:x:27:anna,admin,bert\nusers:x:100:bert\nanna:x:1000:\nteachers:x:1500:anna\n",
		"gshadow": "root:*::\nsudo:*:anna:anna,admin\nanna:!::\nteachers:!::anna\n",
		"subuid":  "anna:100000:65536\n_system:200000:65536\n",
		"subgid":  "",
	}
	want := accounts{
		"passwd":  "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n",
		"shadow":  "root:*:1::::::\n",
		"group":   "root:x:0:\nsudo:x:27:admin\nusers:x:100:\n",
		"gshadow": "root:*::\nsudo:*::admin\n",
		"subuid":  "_system:200000:65536\n",
		"subgid":  "",
	}
	if d := cmp.Diff(want, have.withoutPeople(parseLoginDefs("# comment\nUID_MIN 1000\n"))); d != "" {
		t.Error(d)
	}
}

func TestParseLoginDefs(t *testing.T) {
	got := parseLoginDefs("UID_MIN\t500\nUID_MAX  x\nGID_MAX 7000\n")
	if got != (idRange{uidMin: 500, uidMax: 60000, gidMin: 1000, gidMax: 7000}) {
		t.Errorf("%+v", got)
	}
}

func TestExcludes(t *testing.T) {
	got := Excludes([]string{"opt/big"}, []string{"home/*"})
	if d := cmp.Diff(len(DefaultExcludes()), len(got)); d != "" {
		t.Error(d)
	}
	for _, p := range got {
		if p == "home/*" {
			t.Error("an omitted line is still there")
		}
	}
}

func TestParseProgress(t *testing.T) {
	for text, want := range map[string]int{
		"[=====-            ] 1234/4567  27%": 27,
		"[=================|] 9/9 100%":       100,
		"Parallel mksquashfs: Using 2":        -1,
		"file 12/13 name":                     -1,
	} {
		if got := parseProgress(text); got != want {
			t.Errorf("parseProgress(%q) = %d, want %d", text, got, want)
		}
	}
}
