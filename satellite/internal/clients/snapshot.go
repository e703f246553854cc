package clients

import (
	"net/netip"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// State is where a client is.
type State string

// States of a client.
const (
	Booting  State = "booting"
	Starting State = "starting"
	Healthy  State = "healthy"
	Degraded State = "degraded"
	Failed   State = "failed"
	Lost     State = "lost"
)

func states() []State { return []State{Booting, Starting, Healthy, Degraded, Failed, Lost} }

// Steps of the timeline that the satellite sees. Other names are allowed; these take part in decisions.
const (
	// DHCP by boot firmware or iPXE. DHCP of a running system must be told without a step: it is no sign of a boot.
	StepDiscover = "dhcp-discover"
	StepOffer    = "dhcp-offer"
	StepAck      = "dhcp-ack"
	StepLoader   = "loader" // iPXE was sent to firmware
	// The same DHCP steps once more, after the loader. The registry itself gives these names.
	StepIPXEDiscover = "ipxe-discover"
	StepIPXEOffer    = "ipxe-offer"
	StepIPXEAck      = "ipxe-ack"
	StepScript       = "script"
	StepKernel       = "kernel-sent" // the last byte went out; so with the next two
	StepConfig       = "config-sent"
	StepInitrd       = "initrd-sent"
	StepNBD          = "nbd-connect"
)

// Who saw a step.
const (
	FromSatellite = "satellite"
	FromClient    = "client"
)

// Step is one entry of a boot timeline. At counts from the first packet of the boot.
type Step struct {
	Name   string        `json:"name"`
	At     time.Duration `json:"at"`
	Source string        `json:"source"` // FromSatellite or FromClient
}

// Snapshot is what is known of a client at one moment. It shares nothing with the registry.
type Snapshot struct {
	MAC      string     `json:"mac"`
	UUID     string     `json:"uuid,omitempty"`
	Addr     netip.Addr `json:"addr"` // zero if unknown
	State    State      `json:"state"`
	Reasons  []string   `json:"reasons,omitempty"` // why it is degraded, failed or lost
	Changed  time.Time  `json:"changed"`           // of the last change of any field
	LastSeen time.Time  `json:"last_seen"`
	BootedAt time.Time  `json:"booted_at"` // first packet of this boot
	Firmware string     `json:"firmware,omitempty"`
	Agent    string     `json:"agent,omitempty"` // build of the agent
	BootID   string     `json:"boot_id,omitempty"`
	Timeline []Step     `json:"timeline,omitempty"` // in the order of At
	// Report is the last report of this boot, nil before the first. Its Timeline is nil: the merged one is above.
	Report *agentproto.Report `json:"report,omitempty"`
}

// Sighting is what a room of the satellite saw of a client.
type Sighting struct {
	// MAC as aa:bb:cc:dd:ee:ff; if it is empty, the client is looked up by Addr, and the sighting is dropped if no client has it.
	MAC  string
	Addr netip.Addr // zero if unknown
	// Step is empty if the sighting is no sign of a boot (DHCP of a running system): it updates a known client's address and UUID.
	Step string
	UUID string // taken over when set
	// Firmware is what the PC starts with, for people; the first that is told in a boot counts.
	Firmware string
	Again    bool // StepScript by a client that has not been restarted
	Leased   bool // this satellite's DHCP server has given Addr to the client
}
