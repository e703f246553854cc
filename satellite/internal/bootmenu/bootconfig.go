package bootmenu

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// ErrNothingToBoot tells that no version is ready for the client.
var ErrNothingToBoot = errors.New("no version is ready for this client")

// BootConfig makes the boot configuration of a client. token is the boot's report token (32 hex digits), now the satellite's clock.
// ErrNothingToBoot if Choose finds no version.
func (m *Menu) BootConfig(r Request, token string, now time.Time) (agentproto.BootConfig, Choice, error) {
	c := m.Choose(r)
	if c.Version == nil {
		return agentproto.BootConfig{}, c, fmt.Errorf("%w: %s", ErrNothingToBoot, c.Problem)
	}
	d := m.state.Desired
	b := agentproto.BootConfig{
		Version:     agentproto.Version,
		Site:        d.Site,
		Image:       c.Version.Image,
		Number:      c.Version.Number,
		Digest:      hex.EncodeToString(c.Version.Digest[:]),
		Export:      c.Version.ExportName(),
		SizeBytes:   c.Version.SizeBytes,
		DataBytes:   c.Version.DataBytes,
		Satellites:  m.satellites(r, c),
		TrustAnchor: m.state.TrustAnchor,
		Token:       token,
		Now:         now.UTC().Truncate(time.Millisecond),
		NBDTimeout:  wholeSeconds(d.Boot.NBDTimeout),
		DeadTimeout: wholeSeconds(d.Boot.DeadTimeout),
		Verity:      true,
		Shell:       d.Boot.Shell,
	}
	describeClient(&b, c)
	if err := b.Validate(); err != nil {
		return agentproto.BootConfig{}, c, fmt.Errorf("boot configuration of %s: %w", r.MAC, err)
	}
	return b, c, nil
}

func (m *Menu) satellites(r Request, c Choice) []agentproto.Satellite {
	var out []agentproto.Satellite
	for _, s := range m.servers(r, c.Subnet) {
		out = append(out, agentproto.Satellite{
			Name: s.name, Addr: s.addr.String(), NBDPort: m.state.Ports.NBD, ReportPort: m.state.Ports.Report,
		})
	}
	return out
}

// describeClient fills in what the client's and the subnet's entry say; values that the agent would refuse are left out.
func describeClient(b *agentproto.BootConfig, c Choice) {
	b.Hostname = hostname(c)
	if c.Subnet == nil {
		return
	}
	for _, a := range c.Subnet.DNS {
		if a.IsValid() && len(b.DNS) < agentproto.MaxDNS {
			b.DNS = append(b.DNS, a.String())
		}
	}
	b.SearchDomain = c.Subnet.Domain
	probe := *b
	if errors.Is(probe.Validate(), agentproto.ErrBadConfig) {
		probe.SearchDomain = ""
		if probe.Validate() == nil {
			b.SearchDomain = ""
		}
	}
}

// wholeSeconds rounds up: the kernel's nbd driver counts in seconds, and zero would mean the default.
func wholeSeconds(d time.Duration) agentproto.Duration {
	if d <= 0 {
		return 0
	}
	return agentproto.Duration(min((d + time.Second - 1).Truncate(time.Second), agentproto.MaxTimeout))
}

// EncodeBootConfig returns the JSON text that the client's initrd holds at agentproto.BootConfigPath.
func EncodeBootConfig(b agentproto.BootConfig) ([]byte, error) {
	text, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode boot configuration: %w", err)
	}
	return append(text, '\n'), nil
}
