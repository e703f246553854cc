package account

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheckName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ann", "_apt", "a.b-c_d", "PC$", `SCHOOL\ann`, "ann@school.example", "x+y", strings.Repeat("a", 255)} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "-oProxyCommand=reboot", "..", ".", "a b", "a:b", "a/b", "../root", "a\nb", "a\x00b", "a;b", "a$b", "$(reboot)", "a%h", "a,b",
		"`a`", "a'b", "ü", "\xff", strings.Repeat("a", 256)} {
		if err := CheckName(name); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func newFiles(t *testing.T) Files {
	t.Helper()
	dir := t.TempDir()
	f := Files{Passwd: filepath.Join(dir, "passwd"), Shadow: filepath.Join(dir, "shadow"), Getent: filepath.Join(dir, "getent")}
	for name, text := range map[string]string{
		f.Passwd: "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000:Ann,,,:/home/ann/:/bin/bash\nhalf:x:1001\nbad:x:-1:1:::\nrel:x:1002:1002::home:\n",
		f.Shadow: "root:*:1::::::\nann:pamltsp:1::::::\nfree:pamltsp=:1::::::\n",
		f.Getent: "#!/bin/sh\ncase $3 in\nldap) echo ldap:*:5000:5000::/home/ldap:/bin/sh;;\ncase) echo Case:*:5001:5000::/home/case:/bin/sh;;\n*) exit 2;;\nesac\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestLookup(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	for name, want := range map[string]Account{
		"ann":  {Name: "ann", UID: 1000, GID: 1000, Home: "/home/ann", Shell: "/bin/bash", Local: true},
		"ldap": {Name: "ldap", UID: 5000, GID: 5000, Home: "/home/ldap", Shell: "/bin/sh"},
	} {
		got, err := f.Lookup(t.Context(), name)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
	for _, name := range []string{"half", "bad", "rel", "nobody", "case", "roo", "--help"} {
		if a, err := f.Lookup(t.Context(), name); err == nil {
			t.Errorf("%s: %+v", name, a)
		}
	}
	if got := f.NameOf(1000); got != "ann" {
		t.Errorf("1000 is %q", got)
	}
	if got := f.NameOf(7); got != "" {
		t.Errorf("7 is %q", got)
	}
}

func TestSecret(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]Secret{
		"":                          {},
		"*":                         {},
		"!pamltsp":                  {},
		"$y$j9T$pamltsp":            {},
		"pamltsp":                   {Remote: true},
		"pamltsp,cached=1":          {Remote: true},
		"pamltsp=":                  {Remote: true, Free: true},
		"pamltsp=,x=1":              {Remote: true, Free: true},
		"pamltsp=c2VjcmV0":          {Remote: true, Password: []byte("secret")},
		"pamltsp=c2VjcmV0Cg==,more": {Remote: true, Password: []byte("secret")},
		"pamltsp=Pz8/":              {Remote: true, Password: []byte("???")},
	} {
		got, err := parseSecret(field)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%q: %v %s", field, err, diff)
		}
	}
	for _, field := range []string{"pamltsp=!", "pamltsp=Cg==", "pamltsp=YQpi", "pamltsp=YQBi"} {
		if got, err := parseSecret(field); err == nil || got.Free || got.Password != nil {
			t.Errorf("%q: %+v, %v", field, got, err)
		}
	}
	f := newFiles(t)
	if got, err := f.Secret("free"); err != nil || !got.Free {
		t.Errorf("free: %+v, %v", got, err)
	}
	if _, err := f.Secret("nobody"); !errors.Is(err, ErrUnknown) {
		t.Errorf("nobody: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("ann:x:1000:1000:Ann:/home/ann:/bin/sh")
	f.Fuzz(func(t *testing.T, line string) {
		a, err := parse(line)
		if err == nil && (CheckName(a.Name) != nil || a.UID < 0 || !filepath.IsAbs(a.Home)) {
			t.Errorf("%q gave %+v", line, a)
		}
		_, _ = parseSecret(line)
	})
}
