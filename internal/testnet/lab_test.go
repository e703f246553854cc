package testnet

import (
	"testing"
)

func TestNewRefusesPrefix(t *testing.T) {
	for _, prefix := range []string{"", "A", "1a", "a-b", "a/b", "toolongprefix", "a b"} {
		if l, err := New(t.Context(), Config{Prefix: prefix}); err == nil {
			l.Close()
			t.Errorf("prefix %q was taken", prefix)
		}
	}
}

func TestClaimIsExclusive(t *testing.T) {
	first, label1, err := claim("tnclaim")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, label2, err := claim("tnclaim")
	if err != nil {
		t.Fatal(err)
	}
	if label1 != "tnclaim" || label2 != "tnclaim2" {
		t.Errorf("labels %q and %q", label1, label2)
	}
	second.Close()
	again, label, err := claim("tnclaim")
	if err != nil || label != "tnclaim2" {
		t.Fatalf("after release: %q, %v", label, err)
	}
	again.Close()
}

func TestNames(t *testing.T) {
	l := &Lab{label: "x", names: map[string]bool{switchName: true}}
	for _, test := range []struct {
		name string
		ok   bool
	}{
		{"sat1", true}, {"sat1", false}, {"sw", false}, {"abcdefg", true}, {"abcdefgh", false}, {"Sat", false}, {"", false}, {"a-b", false},
	} {
		if err := l.reserve("host", test.name, shortName); (err == nil) != test.ok {
			t.Errorf("%q: %v", test.name, err)
		}
	}
	l.closed = true
	if err := l.reserve("host", "late", shortName); err == nil {
		t.Error("a closed lab takes hosts")
	}
}

func TestCheckLiteral(t *testing.T) {
	for address, ok := range map[string]bool{"10.0.0.1:80": true, "[fe80::1%eth0]:80": true, "[::1]:80": true, "name:80": false, "10.0.0.1": false, ":80": false} {
		if err := checkLiteral(address); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
	}
}
