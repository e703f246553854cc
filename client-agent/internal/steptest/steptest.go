// Package steptest runs the functions of steps on small trees, without a shell. Only tests import it.
package steptest

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

// System notes what it is asked for.
type System struct {
	Hostname string
	Calls    []string // of Systemctl, arguments joined by blanks
}

// SetHostname notes the name.
func (s *System) SetHostname(name string) error {
	s.Hostname = name
	return nil
}

// Systemctl notes the arguments.
func (s *System) Systemctl(_ context.Context, args ...string) error {
	s.Calls = append(s.Calls, strings.Join(args, " "))
	return nil
}

// New returns a context for a tree. Expand does no more than ${HOSTNAME}.
func New(t testing.TB, root string, values step.Values) *step.Context {
	t.Helper()
	r := rootdir.Root(root)
	c := &step.Context{
		Ctx: t.Context(), Root: r, Values: values, System: &System{}, Memory: step.NewMemory(r, "/run/ltsp/applet", nil),
		Facts: step.Facts{Device: "eth0", MAC: net.HardwareAddr{0x52, 0x54, 0, 0x67, 0, 0x1a}, Addr: netip.MustParsePrefix("192.168.67.20/24"), Sys: root + "/sys"},
	}
	c.Expand = func(text string) (string, error) {
		return strings.ReplaceAll(text, "%{HOSTNAME}", c.Values["HOSTNAME"]), nil
	}
	return c
}

// Do runs all functions of steps that have something to do; none may fail.
func Do(t testing.TB, c *step.Context, steps ...step.Step) {
	t.Helper()
	for _, s := range steps {
		for _, f := range s.Functions {
			if f.Do == nil {
				continue
			}
			if err := f.Do(c); err != nil {
				t.Errorf("%s: %s: %v", s.Name, f.Name, err)
			}
		}
	}
}
