package dhcp

import (
	"net/netip"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// EventKind is a step of a client's way to an address and a boot file.
type EventKind string

// The kinds of events. Discover comes when the packet arrives; the others when the reply has been handed to the kernel.
const (
	EventDiscover   EventKind = "discover"
	EventOffer      EventKind = "offer"
	EventAck        EventKind = "ack"
	EventNak        EventKind = "nak"
	EventProxyOffer EventKind = "proxy-offer"
	EventBootAck    EventKind = "boot-ack" // the answer on port 4011
)

// Stage is what runs on the client when it asks.
type Stage string

// The stages of a client. A running system's DHCP is no sign of a boot.
const (
	StageFirmware Stage = "firmware" // PXE ROM or UEFI
	StageIPXE     Stage = "ipxe"
	StageSystem   Stage = "system"
)

// An Event tells of one step.
type Event struct {
	Kind  EventKind
	Stage Stage
	MAC   lease.MAC
	// UUID is the SMBIOS UUID in lower case, as Linux shows it; empty if the client sent none or a placeholder.
	UUID string
	// Addr is the address offered or leased; in proxy mode the one that the client has, if it says so.
	Addr   netip.Addr
	Arch   Arch
	Subnet string
	At     time.Time
	// Detail is the boot file or URL, or why there is none.
	Detail string
}
