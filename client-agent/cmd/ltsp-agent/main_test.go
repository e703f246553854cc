package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginhost"
)

func TestRun(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args        []string
		pid, code   int
		out, errOut string // regular expressions
	}{
		{[]string{"ltsp-agent", "version"}, 100, 0, `^ltsp-agent \S+ linux/\w+\n$`, `^$`},
		{[]string{"ltsp-agent", "--help"}, 100, 0, `Usage:`, `^$`},
		{[]string{"/init", "version"}, 1, 0, `^ltsp-agent `, `^$`},
		{[]string{"ltsp-agent"}, 100, 2, `^$`, `Usage:`},
		{[]string{"ltsp-agent", "fly"}, 100, 2, `^$`, `Usage:`},
		{[]string{"ltsp-agent", "version", "x"}, 100, 2, `^$`, `Usage:`},
		{[]string{"ltsp-agent", "pam"}, 100, 2, `^$`, `Usage:`},
		{[]string{"ltsp-agent", "pam", "fly"}, 100, 2, `^$`, `^$`},
	}
	for _, tt := range tests {
		var out, errOut bytes.Buffer
		if code := run(tt.args, tt.pid, &out, &errOut); code != tt.code {
			t.Errorf("%v: code %d, want %d", tt.args, code, tt.code)
		}
		for text, expr := range map[string]string{out.String(): tt.out, errOut.String(): tt.errOut} {
			if !regexp.MustCompile(expr).MatchString(text) {
				t.Errorf("%v: %q does not match %s", tt.args, text, expr)
			}
		}
	}
}

// TestPAMIsNotAskpass has the mark of ssh's askpass in the environment that PAM passes on: askpass would say yes to any password.
func TestPAMIsNotAskpass(t *testing.T) {
	t.Setenv(loginhost.AskpassEnv, "1")
	var out, errOut bytes.Buffer
	if code := run([]string{"ltsp-agent", "pam", "fly"}, 100, &out, &errOut); code != 2 || errOut.Len() != 0 {
		t.Errorf("PAM: code %d, %s", code, errOut.String())
	}
	if code := run([]string{"ltsp-agent", "ann@server's password: "}, 100, &out, &errOut); code != 1 || !strings.Contains(errOut.String(), "no password is left") {
		t.Errorf("askpass without a password: code %d, %s", code, errOut.String())
	}
}
