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

// A Message is one line of a stream: JSON, at most MaxLine bytes with the newline, exactly one field set. The agent sends Hello first.
//
// On a report stream the satellite answers each line of the agent with an Ack, in order; between two answers it may send Notice and Command lines.
// On a fetch stream (Hello.Fetch) the agent sends Fetch lines, and the satellite answers each with a Blob and Blob.Size raw bytes behind that line, or
// with an Ack that has an error.
type Message struct {
	Hello   *Hello   `json:"hello,omitempty"`
	Report  *Report  `json:"report,omitempty"`
	Failure *Failure `json:"failure,omitempty"`
	Result  *Result  `json:"result,omitempty"`
	Event   *Event   `json:"event,omitempty"`
	Fetch   *Fetch   `json:"fetch,omitempty"`
	Ack     *Ack     `json:"ack,omitempty"`
	Notice  *Notice  `json:"notice,omitempty"`
	Command *Command `json:"command,omitempty"`
	Blob    *Blob    `json:"blob,omitempty"`
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
	// Fetch makes this a fetch stream; it does not end the client's report stream.
	Fetch bool `json:"fetch,omitempty"`
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
	// Policy tells which policy is in force; nil before one is.
	Policy *PolicyReport `json:"policy,omitempty"`
	// Sessions are who is logged in and the remote applications that run, at most MaxSessions.
	Sessions []Session `json:"sessions,omitempty"`
}

// Step is one entry of the boot timeline. At counts from the kernel's start (CLOCK_BOOTTIME), so wrong clocks do not matter.
// Names: kernel, agent, modules, network, nbd, verity, root, policy, switch, systemd, agent-up, healthy.
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
	// Policy is the SHA-256 of the PolicyState that the client should have, in hex; empty if this satellite does not know.
	Policy string `json:"policy,omitempty"`
}

// Fetch asks for bytes. Name is PolicyName, or the SHA-256 (64 lower-case hex digits) of something that the PolicyState names.
type Fetch struct {
	Name string `json:"name"`
}

// PolicyName is the name under which a client fetches its PolicyState, as JSON.
const PolicyName = "policy"

// Blob announces the bytes that were asked for.
type Blob struct {
	Size uint64 `json:"size"`
	// SHA256 is in 64 lower-case hex digits.
	SHA256 string `json:"sha256"`
}

// MaxBlob bounds what one Fetch brings, in bytes.
const MaxBlob = 80 << 20

// PolicyState is all that a client is told to be: what its levels say, who may log in, and where. Its JSON text's SHA-256 names it.
type PolicyState struct {
	Version int `json:"version"`
	// Layers are the archives (internal/policy) that apply to the client, the organisation's first, then the site's, then the room's.
	Layers []PolicyLayer `json:"layers,omitempty"`
	// Server is the login and home host of the site, SERVER of ltsp.conf: an IP address or a host name; empty if the site has none.
	Server string `json:"server,omitempty"`
	// ServerPort is Server's SSH port; zero means 22.
	ServerPort uint16 `json:"server_port,omitempty"`
	// Users are the accounts of the login host; nil if they are not known. The bytes are the JSON text of Users.
	Users *Blob `json:"users,omitempty"`
	// KnownHosts are lines of known_hosts (sshd(8)) for the login host under the names "server" and Server; each without a line end.
	KnownHosts []string `json:"known_hosts,omitempty"`
	// Commands names the kinds of Command that the site allows.
	Commands []string `json:"commands,omitempty"`
}

// PolicyLayer is one level.
type PolicyLayer struct {
	// Scope is "organisation", "site/NAME" or "room/SITE/NAME".
	Scope  string `json:"scope"`
	Number uint64 `json:"number"` // version of the level's policy, from 1
	Blob
}

// Users are a login host's accounts: the text of passwd(5) and group(5). Password fields are never hashes.
type Users struct {
	Passwd string `json:"passwd"`
	Group  string `json:"group"`
}

// PolicyReport tells how far a client is with its policy.
type PolicyReport struct {
	// State is the SHA-256 of the PolicyState that is in force, in hex.
	State string `json:"state"`
	// Pending says what of it needs a reboot, a short line each, at most 32.
	Pending []string `json:"pending,omitempty"`
	// Errors say what could not be done, a short line each, at most 32.
	Errors []string `json:"errors,omitempty"`
	// Took is how long it took from the notice to being in force; zero for what came with the boot.
	Took Duration `json:"took,omitempty"`
}

// MaxSessions bounds Report.Sessions.
const MaxSessions = 64

// Session is one user's presence on the client.
type Session struct {
	// Kind is "login" or "remoteapp".
	Kind  string    `json:"kind"`
	User  string    `json:"user"`
	App   string    `json:"app,omitempty"`  // remoteapp: its name
	Host  string    `json:"host,omitempty"` // remoteapp: where it runs
	Since time.Time `json:"since"`
}

// Event tells the admin of something that happened on a client and is not its state: a login host that does not answer, a login that was refused because
// its key has changed. A client may send a few dozen a minute; more are dropped.
type Event struct {
	Time time.Time `json:"time"`
	// Kind is one of the Event constants.
	Kind string `json:"kind"`
	// Text is for people, one line, at most 512 bytes.
	Text string `json:"text"`
}

// Kinds of Event.
const (
	EventLoginHost = "login-host" // does not answer
	EventHostKey   = "host-key"   // is not the pinned one
	EventRemoteApp = "remoteapp"  // its host does not answer, or it can't be started
	EventPolicy    = "policy"     // could not be applied
)

// Notice tells that something has changed.
type Notice struct {
	// Policy is the SHA-256 of the PolicyState that the client should have, in hex.
	Policy string `json:"policy,omitempty"`
}

// Kinds of Command.
const (
	CommandReboot   = "reboot"
	CommandPowerOff = "poweroff"
	CommandMessage  = "message" // shows Text to who sits there
	CommandLogs     = "logs"    // the end of the journal: Args are unit names, none means all
	CommandRun      = "run"     // Args are a program and its arguments, run as root
)

// Command has the client do something. The agent answers with one Result.
type Command struct {
	ID   string   `json:"id"` // 32 hex digits
	Kind string   `json:"kind"`
	Args []string `json:"args,omitempty"` // at most 64, 8 KiB in all
	Text string   `json:"text,omitempty"` // at most 4 KiB
	// Timeout bounds the work; zero means 30 s.
	Timeout Duration `json:"timeout,omitempty"`
}

// MaxOutput bounds Result.Output in bytes.
const MaxOutput = 32 << 10

// Result is how a Command ended.
type Result struct {
	ID string `json:"id"`
	// Error is empty if the command did what it should.
	Error string `json:"error,omitempty"`
	// Output is what it printed, the end of it if it was more than MaxOutput.
	Output string `json:"output,omitempty"`
	// Exit is the program's exit code, for CommandRun.
	Exit int `json:"exit,omitempty"`
}
