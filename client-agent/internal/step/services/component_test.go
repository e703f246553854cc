//go:build component

package services

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/testtree"
)

// TestDisableAndMaskAsSystemctl has systemctl and this step do the same to copies of one root.
func TestDisableAndMaskAsSystemctl(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		disable []string
		mask    []string
		user    bool
	}{
		{"alias", []string{"ssh"}, nil, false},
		{"by the alias", []string{"sshd.service"}, nil, false},
		{"also", []string{"avahi"}, nil, false},
		{"socket only", []string{"avahi.socket"}, nil, false},
		{"requires", []string{"keep"}, nil, false},
		{"static", []string{"static"}, nil, false},
		{"own file", []string{"own"}, nil, false},
		{"several", []string{"ssh", "man-db.timer", "rsyslog", "rpcbind"}, []string{"rsyslog", "no-such", "ssh.service"}, false},
		{"mask a file", nil, []string{"own"}, false},
		{"session", []string{"sync"}, []string{"sync"}, true},
		{"instance", []string{"getty@tty1"}, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			theirs, ours := testtree.New(t, image), testtree.New(t, image)
			systemctl := func(verb string, units []string) {
				args := []string{"--root=" + theirs, "--quiet", verb}
				if tt.user {
					args = append(args, "--user", "--global")
				}
				// It fails where it masks a file; what it did before counts.
				out, err := exec.CommandContext(t.Context(), "systemctl", append(args, units...)...).CombinedOutput()
				if err != nil && !strings.Contains(string(out), "already exists") {
					t.Fatalf("systemctl: %v\n%s", err, out)
				}
			}
			c := newContext(t, ours, step.Values{})
			m := system
			if tt.user {
				m = user
			}
			if tt.disable != nil {
				systemctl("disable", tt.disable)
				if err := disable(c, m, tt.disable); err != nil {
					t.Error(err)
				}
			}
			if tt.mask != nil {
				systemctl("mask", tt.mask)
				units := make([]string, len(tt.mask))
				for i, name := range tt.mask {
					units[i] = withSuffix(name)
				}
				if err := mask(c, m, units); err != nil {
					t.Error(err)
				}
			}
			if diff := cmp.Diff(links(t, theirs), links(t, ours)); diff != "" {
				t.Errorf("(-systemctl +ours):\n%s", diff)
			}
		})
	}
}
