// Package agentproto is what a satellite and the client agent say to each other: the boot configuration that the satellite puts
// into a client's second initrd, and the report stream of the running client. FORMAT.md describes both. It is pure data and codec:
// no sockets, no files. Satellite and client-agent import it, nobody else.
package agentproto

import "time"

// BootConfigPath is where the boot configuration lies in the client's second initrd.
const BootConfigPath = "/ltsp/boot.json"

// Version is the protocol version that this code speaks. A reader accepts the same major number and ignores unknown fields.
const Version = 1

// BootConfig is what the agent needs to attach a root file system. The satellite renders it per client and boot.
// It is public: anyone on the LAN can fetch it, so it holds nothing that is secret to the site.
type BootConfig struct {
	Version int `json:"version"`
	// Site is the site's name; a satellite proves by its certificate that it belongs to it.
	Site string `json:"site"`
	// Image is the image's name, Number the version's number, Digest the dm-verity root hash in lower-case hex (64 digits).
	Image  string `json:"image"`
	Number uint64 `json:"number"`
	Digest string `json:"digest"`
	// Export is the NBD export name (NAME@DIGEST). Its size is SizeBytes: the data (DataBytes, a multiple of 4096) and behind it
	// the dm-verity hash tree.
	Export    string `json:"export"`
	SizeBytes uint64 `json:"size_bytes"`
	DataBytes uint64 `json:"data_bytes"`
	// Satellites are the boxes that serve this site, the best first. Never empty.
	Satellites []Satellite `json:"satellites"`
	// TrustAnchor is the CA certificate in PEM; the report connection accepts nothing else.
	TrustAnchor string `json:"trust_anchor"`
	// Token ties the client's reports to this boot: 32 hex digits.
	Token string `json:"token"`
	// Now is the satellite's clock when it rendered this; PCs with a dead battery use it.
	Now time.Time `json:"now"`
	// Hostname is the name the client shall take. Empty: "ltsp" and the host part of the address as one integer.
	Hostname string `json:"hostname,omitempty"`
	// DNS and SearchDomain configure the resolver where DHCP gave nothing.
	DNS          []string `json:"dns,omitempty"`
	SearchDomain string   `json:"search_domain,omitempty"`
	// NBDTimeout is how long one request may be unanswered before the connection counts as dead; DeadTimeout is how long the
	// block device waits for another server before it returns I/O errors. Zero means DefaultNBDTimeout and DefaultDeadTimeout.
	NBDTimeout  Duration `json:"nbd_timeout,omitempty"`
	DeadTimeout Duration `json:"dead_timeout,omitempty"`
	// Verity false maps no dm-verity (only for measurements).
	Verity bool `json:"verity"`
	// Shell allows a root shell on the console after a boot failure.
	Shell bool `json:"shell,omitempty"`
	// OverlaySizePercent limits the writable layer to that share of RAM; zero means 50.
	OverlaySizePercent int `json:"overlay_size_percent,omitempty"`
}

// Defaults of BootConfig's times: see facts of the kernel's nbd driver in FORMAT.md.
const (
	DefaultNBDTimeout  = 5 * time.Second
	DefaultDeadTimeout = 10 * time.Minute
)

// Satellite is one box of the site as a client sees it. Addr is an IP address without a port.
type Satellite struct {
	Name       string `json:"name"`
	Addr       string `json:"addr"`
	NBDPort    uint16 `json:"nbd_port"`
	ReportPort uint16 `json:"report_port"`
}

// Duration is a time.Duration that reads and writes as "5s" in JSON.
type Duration time.Duration

// A Message is one line of the report stream: JSON, at most MaxLine bytes with the newline, exactly one field set.
// The agent sends Hello first; the satellite answers each line with an Ack.
type Message struct {
	Hello   *Hello   `json:"hello,omitempty"`
	Report  *Report  `json:"report,omitempty"`
	Failure *Failure `json:"failure,omitempty"`
	Ack     *Ack     `json:"ack,omitempty"`
}

// MaxLine bounds one line of the report stream in bytes, newline included.
const MaxLine = 64 << 10

// Hello opens the stream and says who speaks.
type Hello struct {
	Version int    `json:"version"`
	MAC     string `json:"mac"`  // aa:bb:cc:dd:ee:ff
	UUID    string `json:"uuid"` // SMBIOS, lower case; empty if unknown
	Token   string `json:"token"`
	Agent   string `json:"agent"` // build version
	BootID  string `json:"boot_id"`
}

// Report is the state of a running client. It is sent at once when State changes and then every AckInterval.
type Report struct {
	// State is "booting" (initrd), "starting" (resident, systemd not yet done), "healthy" or "degraded" (failed units, NBD down,
	// overlay over 90 %).
	State    string    `json:"state"`
	Reasons  []string  `json:"reasons,omitempty"` // why it is degraded
	Image    string    `json:"image"`
	Number   uint64    `json:"number"`
	Digest   string    `json:"digest"`
	Hostname string    `json:"hostname"`
	Kernel   string    `json:"kernel"`
	Addr     string    `json:"addr"`
	Timeline []Step    `json:"timeline,omitempty"` // whole; sent when it has changed
	Memory   Memory    `json:"memory"`
	Overlay  Fill      `json:"overlay"`
	Load1    float64   `json:"load1"`
	Uptime   Duration  `json:"uptime"`
	Link     Link      `json:"link"`
	NBD      NBD       `json:"nbd"`
	Failed   []string  `json:"failed_units,omitempty"` // at most 32
	Lease    *Lease    `json:"lease,omitempty"`
	Time     time.Time `json:"time"`
}

// Step is one entry of the boot timeline. At counts from the kernel's start (CLOCK_BOOTTIME), so wrong clocks do not matter.
// Names: kernel, agent, modules, network, nbd, verity, root, switch, systemd, agent-up, healthy.
type Step struct {
	Name string   `json:"name"`
	At   Duration `json:"at"`
}

// Memory is in bytes, from /proc/meminfo.
type Memory struct {
	TotalBytes     uint64 `json:"total_bytes"`
	AvailableBytes uint64 `json:"available_bytes"`
}

// Fill is the writable layer.
type Fill struct {
	SizeBytes uint64 `json:"size_bytes"`
	UsedBytes uint64 `json:"used_bytes"`
}

// Link is the boot NIC. SpeedMbps is 0 if the driver does not say.
type Link struct {
	Name      string `json:"name"`
	SpeedMbps int    `json:"speed_mbps"`
	Duplex    string `json:"duplex,omitempty"`
}

// NBD is the root connection as the keeper sees it.
type NBD struct {
	Satellite  string `json:"satellite"` // address:port in use
	Connected  bool   `json:"connected"`
	Reconnects uint64 `json:"reconnects"`
}

// Lease is what the agent knows of its address, once a DHCP server has confirmed it. Expires is the zero time for a lease without end.
type Lease struct {
	Server  string    `json:"server"`
	Expires time.Time `json:"expires"`
}

// Failure tells of a boot that went wrong in the initrd.
type Failure struct {
	Stage  string `json:"stage"`  // name of the step that failed
	Error  string `json:"error"`  // what
	Advice string `json:"advice"` // what to do
}

// Ack answers each line. Next is when the satellite wants the next report at the latest.
type Ack struct {
	Next  Duration `json:"next"`
	Error string   `json:"error,omitempty"` // the line was refused; the stream ends
}
