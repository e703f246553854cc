package accounts

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRefusesHostileLines(t *testing.T) {
	t.Parallel()
	text := strings.Join([]string{
		"anna:x:1001:1001:Anna:/home/anna:/bin/sh", "# comment", "", "+::::::", "-x:x:1:1:::", "a/b:x:1:1:::", "..:x:1:1:::", "a b:x:1:1:::", "a,b:x:1:1:::", "$(id):x:1:1:::",
		"neg:x:-1:1:::", "big:x:4294967295:1:::", "hex:x:0x10:1:::", "few:x:1", "many:x:1:1::::", "\x01x:x:1:1:::", "gecos:x:1:1:a\rb:/:/", strings.Repeat("n", 300) + ":x:1:1:::",
		"bytes\xff\xe9:x:1002:1002:\xff:/:/", "élève:x:1003:1003::/:/", "anna:x:1009:1001:Again:/:/", "DOM\\user:x:1004:1:::", "1234:x:1005:1:::",
	}, "\n")
	p := ParsePasswd([]byte(text))
	var names []string
	for _, u := range p.Users {
		names = append(names, u.Name)
	}
	if diff := cmp.Diff([]string{"anna", "bytes\xff\xe9", "élève", "DOM\\user", "1234"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if u, ok := p.Find("anna"); !ok || u.UID != 1009 {
		t.Errorf("of two lines the later counts: %+v", u)
	}
	if len(p.Reasons) != 15 {
		t.Errorf("%d reasons: %s", len(p.Reasons), strings.Join(p.Reasons, "\n"))
	}
	g := ParseGroup([]byte("domain users:x:5:a,,a,b c,../x,-f,d\n"))
	if diff := cmp.Diff([]Group{{"domain users", "x", 5, []string{"a", "d"}}}, g.Groups); diff != "" {
		t.Error(diff)
	}
}

func TestParseIsBounded(t *testing.T) {
	t.Parallel()
	p := ParsePasswd([]byte(strings.Repeat("bad\n", MaxLines+10) + "late:x:1:1:::\n"))
	if len(p.Users) != 0 || len(p.Reasons) > MaxReason+2 {
		t.Errorf("%d users, %d reasons", len(p.Users), len(p.Reasons))
	}
}

func TestPattern(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern, yes, no string
	}{
		{".*", "a :sudo x", ""},
		{"a|b", "a b", "ab c"},
		{"^(?!administrator)(a|b|c).*", "anna bob cafe", "administrator administrators dave"},
		{"(?!guest).*|guest1", "anna guest1", "guest2"},
		{"(?=.*7)pc.*", "pc7 pc77", "pc8 7"},
		{":sudo", ":sudo", "sudo"},
		{"[[:x]+", "[ :x x", "a"}, // a Python class has no POSIX names
		{`\w+`, "élève a_1", "a-b"},
		{`\d{,2}x`, "x 1x 12x", "123x"},
		{`(?i)ANNA`, "anna Anna", "ann"},
		{`a\.b`, "a.b", "axb"},
		{`[\w.-]+`, "a.b-c", "a/b"},
		{`[^\d]+`, "abc", "a1"},
		{`[]a]+\Z`, "]a", "b"},
		{`x{`, "x{", "x"},
		{`(?P<n>a)+?`, "a aa", "b"},
		{`\x61[\x62-c]`, "ab ac", "ad"},
		{`a\-b[a\-]`, "a-ba a-b-", "aba"},
		{"", "", "a"},
		{"a$", "a", "a$"},
	} {
		p, err := CompilePattern(tt.pattern)
		if err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
			continue
		}
		for name := range strings.FieldsSeq(tt.yes) {
			if !p.Match(name) {
				t.Errorf("%s does not match %s", tt.pattern, name)
			}
		}
		for name := range strings.FieldsSeq(tt.no) {
			if p.Match(name) {
				t.Errorf("%s matches %s", tt.pattern, name)
			}
		}
	}
	for _, bad := range []string{"(", ")", "[", "a**", `(a)\1`, "(?<!a)b", "a(?!b)c", "a++", "(?x) a", "(?P=n)", `\Q`, `\p{L}`, "*", `[\W]`, "a{2}+", `\`, "(?!a)*b", strings.Repeat("(", 1000)} {
		if p, err := CompilePattern(bad); err == nil {
			t.Errorf("%.20s: %v", bad, p)
		}
	}
}

const (
	imagePasswd = "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/\nlocal:x:1000:1000::/home/local:/bin/sh\nguest:x:1500:1500::/home/guest:/bin/sh\n"
	imageGroup  = "root:x:0:\ndaemon:x:1:\nsudo:x:27:local\naudio:x:29:guest\nlocal:x:1000:\nguest:x:1500:\n"
	imageShadow = "root:$y$root:1:0:9:7:::\ndaemon:*:1:0:9:7:::\nlocal:$y$local:1:0:9:7:::\nguest:$y$guest:1:0:9:7:::\n"
)

func image() Files {
	return Files{[]byte(imagePasswd), []byte(imageGroup), []byte(imageShadow), []byte("sudo:!:root:local\n")}
}

func mustRules(t *testing.T, sur, sgr, dur, dgr string) Rules {
	t.Helper()
	r, err := NewRules(sur, sgr, dur, dgr, DefaultRange)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestCollisions: where LTSP's tool ends with an error, the image wins and says so.
func TestCollisions(t *testing.T) {
	t.Parallel()
	source := Files{
		Passwd: []byte("root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\nguest:$6$hash:1501:1501::/h:/bin/sh\nclash:x:1500:1600::/h:/bin/sh\nanna:x:1001:7777::/h:/bin/sh\nben::1002:5000::/h:/bin/sh\n"),
		Group:  []byte("root:x:0:toor\nsudo:x:99:anna,nobody-here\naudio::5000:\nguest:x:1501:\n"),
	}
	m := Merge(source, image(), true, mustRules(t, ".*", ":root|:sudo", "guest", ""))
	want := Files{
		Passwd:      []byte("root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/\nguest:x:1500:1500::/home/guest:/bin/sh\nanna:x:1001:7777::/h:/bin/sh\nben:x:1002:5000::/h:/bin/sh\n"),
		Group:       []byte("root:x:0:\ndaemon:x:1:\nsudo:x:27:anna\naudio:x:29:guest,ben\nguest:x:1500:\n"),
		Shadow:      []byte("root:$y$root:1:0:9:7:::\ndaemon:*:1:0:9:7:::\nguest:$y$guest:1:0:9:7:::\nanna:pamltsp:::::::\nben:pamltsp:::::::\n"),
		GroupShadow: []byte("root:*::\ndaemon:*::\nsudo:!:root:anna\naudio:*::guest,ben\nguest:*::\n"),
	}
	if diff := cmp.Diff(show(want), show(m.Files)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"anna", "ben"}, m.Imported); diff != "" {
		t.Error(diff)
	}
	for _, word := range []string{"root", "toor", "guest", "clash", "audio"} {
		if !slices.ContainsFunc(m.Reasons, func(s string) bool { return strings.Contains(s, word) }) {
			t.Errorf("nothing is said of %s: %q", word, m.Reasons)
		}
	}
}

func show(f Files) map[string]string {
	return map[string]string{"passwd": string(f.Passwd), "group": string(f.Group), "shadow": string(f.Shadow), "gshadow": string(f.GroupShadow)}
}

// TestAgainOnARunningClient: what was imported goes, what the image had and the rules now keep comes back, what was made since stays.
func TestAgainOnARunningClient(t *testing.T) {
	t.Parallel()
	first := Files{Passwd: []byte("anna:x:1001:1001::/h:/bin/sh\nben:x:1002:1002::/h:/bin/sh\n"), Group: []byte("anna:x:1001:\nben:x:1002:\naudio:x:29:ben\n")}
	one := Merge(first, image(), false, mustRules(t, "", "", "", ""))
	if strings.Contains(string(one.Files.Shadow), "$y$") {
		t.Errorf("a password of the image stayed: %s", one.Files.Shadow)
	}
	now := one.Files
	now.Passwd = append(now.Passwd, "made:x:990:990::/:/\n"...)
	now.Group = append(now.Group, "made:x:990:\n"...)
	now.Shadow = append([]byte("root:$y$new:5::::::\n"), append(now.Shadow[strings.IndexByte(string(now.Shadow), '\n')+1:], "made:!:::::::\n"...)...)
	second := Files{Passwd: []byte("anna:x:1001:1001::/new:/bin/sh\ncleo:x:1003:1003::/h:/bin/sh\n"), Group: []byte("anna:x:1001:\ncleo:x:1003:\n")}
	two := Merge(second, Base(image(), now, one.Imported), true, mustRules(t, "", "", "guest", ""))
	got := show(two.Files)
	for file, lines := range map[string][]string{
		"passwd": {"root:", "daemon:", "made:x:990", "guest:x:1500", "anna:x:1001:1001::/new", "cleo:x:1003"},
		"shadow": {"root:$y$new:5:", "daemon:", "made:!", "guest:$y$guest:", "anna:pamltsp:", "cleo:pamltsp:"},
		"group":  {"root:", "daemon:", "sudo:x:27:", "audio:x:29:guest", "made:x:990:", "guest:x:1500:", "anna:x:1001:", "cleo:x:1003:"},
	} {
		if n := strings.Count(got[file], "\n"); n != len(lines) {
			t.Errorf("%s has %d lines, want %d:\n%s", file, n, len(lines), got[file])
		}
		for _, line := range lines {
			if !strings.Contains("\n"+got[file], "\n"+line) {
				t.Errorf("%s has no %s:\n%s", file, line, got[file])
			}
		}
	}
}

func TestSetPasswords(t *testing.T) {
	t.Parallel()
	shadow := "root:$y$x:1::::::\nguest1:pamltsp:::::::\nguest2:pamltsp=b2xk:::::::\nanna:pamltsp:::::::\nlocal:!:::::::\n"
	match := func(expression string) (func(string) bool, error) {
		p, err := CompilePattern(expression)
		return p.Match, err
	}
	got, reasons := SetPasswords([]byte(shadow), []string{"guest.*/ab+/cd/x", "guest2/", "anna/ab/+", "nobody/YQ==", "/YQ==", "anna", "(/YQ==", "local|root/YQ=="}, match)
	want := "root:$y$x:1::::::\nguest1:pamltsp=ab+/cd/x:::::::\nguest2:pamltsp=:::::::\nanna:pamltsp=ab/+:::::::\nlocal:!:::::::\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(reasons) != 5 {
		t.Errorf("%d reasons: %s", len(reasons), strings.Join(reasons, "\n"))
	}
	if text, why := SetPasswords([]byte(shadow), []string{"anna/a:b\n"}, match); string(text) != shadow || len(why) != 1 {
		t.Errorf("a password that is none: %s", text)
	}
}

func TestSetSystemGroup(t *testing.T) {
	t.Parallel()
	f := Files{Group: []byte("root:x:0:\na:x:999:\nb:x:998:\n"), GroupShadow: []byte("root:*::\n")}
	f, err := SetSystemGroup(f, "ltspdm", []string{"anna", "ben"}, DefaultRange)
	if err != nil {
		t.Fatal(err)
	}
	if f, err = SetSystemGroup(f, "ltspdm", []string{"anna"}, DefaultRange); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"passwd": "", "shadow": "", "group": "root:x:0:\na:x:999:\nb:x:998:\nltspdm:x:997:anna\n", "gshadow": "root:*::\nltspdm:!::anna\n"}
	if diff := cmp.Diff(want, show(f)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := SetSystemGroup(f, "x", nil, Range{SystemGIDMin: 997, SystemGIDMax: 999}); err == nil {
		t.Error("a group although no ID is free")
	}
}

func TestParseLoginDefs(t *testing.T) {
	t.Parallel()
	got := ParseLoginDefs([]byte("# UID_MIN 5\nUID_MIN\t\t 500\nGID_MAX 70000 \nSYS_GID_MIN x\nUID_MAX\n"))
	want := DefaultRange
	want.UIDMin, want.GIDMax = 500, 70000
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzMerge(f *testing.F) {
	f.Add(imagePasswd, imageGroup, imagePasswd, imageGroup, imageShadow, ".*", "guest")
	f.Add("a:x:1000:1:::\n", "b:x:1:a,a,c\n", "a:x:1000:1:::\n", "b:x:2:\n", "a:b:c\n", "(?!x).*|:b", "")
	f.Fuzz(func(t *testing.T, sp, sg, dp, dg, ds, sur, dur string) {
		rules, err := NewRules(sur, sur, dur, dur, DefaultRange)
		if err != nil {
			return
		}
		m := Merge(Files{Passwd: []byte(sp), Group: []byte(sg)}, Files{Passwd: []byte(dp), Group: []byte(dg), Shadow: []byte(ds)}, true, rules)
		users, shadows := ParsePasswd(m.Files.Passwd), ParseShadow(m.Files.Shadow)
		if len(users.Reasons)+len(ParseGroup(m.Files.Group).Reasons) > 0 || len(users.Users) != len(shadows.Shadows) {
			t.Errorf("what was written is not read back: %q\n%+v", users.Reasons, m.Files)
		}
		for _, u := range users.Users {
			if u.UID == 0 && !strings.Contains(dp, u.Name+":") {
				t.Errorf("%s has the ID 0 and is not the image's", u.Name)
			}
		}
	})
}
