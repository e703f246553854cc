package fleet

import (
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// VersionState is how far a satellite is with a version.
type VersionState string

// States of a version on a satellite.
const (
	Waiting  VersionState = "waiting"
	Fetching VersionState = "fetching"
	Verified VersionState = "verified"
	Failed   VersionState = "failed"
	Serving  VersionState = "serving" // exported while it is still arriving
)

// Status is what a satellite told last. Key: the satellite's name.
type Status struct {
	Satellite      string          `json:"satellite"`
	Received       time.Time       `json:"received"` // by our clock; also the moment it was seen last
	Reported       bool            `json:"reported"` // false if it connected but told nothing yet
	Revision       uint64          `json:"revision"`
	Versions       []VersionStatus `json:"versions,omitempty"`
	DiskFreeBytes  uint64          `json:"disk_free_bytes"`
	DiskSizeBytes  uint64          `json:"disk_size_bytes"`
	Addresses      []string        `json:"addresses,omitempty"`
	Members        []Member        `json:"members,omitempty"`
	Problems       []string        `json:"problems,omitempty"`
	Time           time.Time       `json:"time"`
	Build          string          `json:"build"`
	Started        time.Time       `json:"started"`
	MemoryBytes    uint64          `json:"memory_bytes"`
	NBDConnections uint32          `json:"nbd_connections"`
	Subnets        []SubnetStatus  `json:"subnets,omitempty"`
	// LoginHost is nil if the satellite told nothing of it.
	LoginHost *LoginHostStatus `json:"login_host,omitempty"`
}

// VersionStatus is one version on a satellite.
type VersionStatus struct {
	Image        string       `json:"image"`
	Number       uint64       `json:"number"`
	ID           manifest.ID  `json:"id"`
	State        VersionState `json:"state"`
	BytesDone    uint64       `json:"bytes_done"`
	BytesTotal   uint64       `json:"bytes_total"`
	BytesFetched uint64       `json:"bytes_fetched"`
	Error        string       `json:"error,omitempty"`
	Plan         *SyncPlan    `json:"plan,omitempty"` // what it follows; nil before it has one
	Started      time.Time    `json:"started,omitzero"`
	Finished     time.Time    `json:"finished,omitzero"`
	Behind       string       `json:"behind,omitempty"` // slower than the plan said, and why
}

// Member is a satellite as another one sees it in the gossip cluster.
type Member struct {
	Name     string   `json:"name"`
	Address  string   `json:"address"`
	State    string   `json:"state"`
	Versions []string `json:"versions,omitempty"`
}

// SubnetStatus is what a satellite does on a subnet.
type SubnetStatus struct {
	Name      string `json:"name"`
	State     string `json:"state"`
	Leases    uint32 `json:"leases"`
	RangeSize uint32 `json:"range_size"`
}

// ClientReport is what is known of a running client. Key: Site and MAC, so that no site can overwrite another's.
type ClientReport struct {
	Site                 string     `json:"site"`
	MAC                  MAC        `json:"mac"`
	UUID                 string     `json:"uuid,omitempty"`
	Time                 time.Time  `json:"time"`
	Received             time.Time  `json:"received"`
	State                string     `json:"state"`
	Reasons              []string   `json:"reasons,omitempty"`
	Image                string     `json:"image,omitempty"`
	Number               uint64     `json:"number,omitempty"`
	Digest               Hash       `json:"digest"`
	Hostname             string     `json:"hostname,omitempty"`
	Address              string     `json:"address,omitempty"`
	Satellite            string     `json:"satellite"`
	Timeline             []BootStep `json:"timeline,omitempty"`
	MemoryTotalBytes     uint64     `json:"memory_total_bytes"`
	MemoryAvailableBytes uint64     `json:"memory_available_bytes"`
	OverlaySizeBytes     uint64     `json:"overlay_size_bytes"`
	OverlayUsedBytes     uint64     `json:"overlay_used_bytes"`
	Load1                float64    `json:"load1"`
	Uptime               Duration   `json:"uptime"`
	LinkName             string     `json:"link_name,omitempty"`
	LinkSpeedMbps        uint32     `json:"link_speed_mbps,omitempty"`
	NBDConnected         bool       `json:"nbd_connected"`
	NBDReconnects        uint64     `json:"nbd_reconnects"`
	FailedUnits          []string   `json:"failed_units,omitempty"`
	Kernel               string     `json:"kernel,omitempty"`
	Firmware             string     `json:"firmware,omitempty"`
	AgentBuild           string     `json:"agent_build,omitempty"`
	// Policy state in force and the one that the satellite wants it to have; what needs a reboot, and what could not be done.
	PolicyState   Hash            `json:"policy_state"`
	PolicyWanted  Hash            `json:"policy_wanted"`
	PolicyPending []string        `json:"policy_pending,omitempty"`
	PolicyErrors  []string        `json:"policy_errors,omitempty"`
	PolicyTook    Duration        `json:"policy_took,omitempty"`
	Sessions      []ClientSession `json:"sessions,omitempty"`
}

// ClientSession is a user's login or remote application on a client.
type ClientSession struct {
	Kind  string    `json:"kind"` // login or remoteapp
	User  string    `json:"user"`
	App   string    `json:"app,omitempty"`
	Host  string    `json:"host,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// Key returns SITE/MAC.
func (r *ClientReport) Key() string { return r.Site + "/" + string(r.MAC) }

// BootStep is one entry of a boot timeline.
type BootStep struct {
	Name   string   `json:"name"`
	At     Duration `json:"at"`
	Source string   `json:"source"`
}

// Limits of reports; what exceeds them is cut off.
const (
	maxReportText     = 256
	maxReportVersions = 256
	maxReportList     = 64
)

// Bound cuts what a satellite told to what is sensible to keep: its reports are not trusted to be small.
func (s *Status) Bound() {
	s.Versions = head(s.Versions, maxReportVersions)
	for i := range s.Versions {
		clean(&s.Versions[i].Image, &s.Versions[i].Error, &s.Versions[i].Behind)
		s.Versions[i].Plan.bound()
	}
	s.Members = head(s.Members, maxReportList)
	for i := range s.Members {
		m := &s.Members[i]
		clean(&m.Name, &m.Address, &m.State)
		m.Versions = cleanList(m.Versions, maxReportVersions)
	}
	s.Subnets = head(s.Subnets, MaxSubnets)
	for i := range s.Subnets {
		clean(&s.Subnets[i].Name, &s.Subnets[i].State)
	}
	s.Addresses = cleanList(s.Addresses, maxReportList)
	s.Problems = cleanList(s.Problems, 16)
	clean(&s.Build)
	if l := s.LoginHost; l != nil {
		clean(&l.State, &l.Error)
		cleanTo(&l.PublicKey, maxHostKeyBytes)
	}
}

// Bound cuts a client's report likewise.
func (r *ClientReport) Bound() {
	r.Reasons = cleanList(r.Reasons, maxReportList)
	r.FailedUnits = cleanList(r.FailedUnits, maxReportList)
	r.Timeline = head(r.Timeline, maxReportList)
	for i := range r.Timeline {
		clean(&r.Timeline[i].Name, &r.Timeline[i].Source)
	}
	r.PolicyPending = cleanList(r.PolicyPending, maxReportList)
	r.PolicyErrors = cleanList(r.PolicyErrors, maxReportList)
	r.Sessions = head(r.Sessions, maxReportList)
	for i := range r.Sessions {
		s := &r.Sessions[i]
		clean(&s.Kind, &s.User, &s.App, &s.Host)
	}
	clean(&r.UUID, &r.State, &r.Image, &r.Hostname, &r.Address, &r.LinkName, &r.Kernel, &r.Firmware, &r.AgentBuild)
}

func head[T any](list []T, n int) []T { return list[:min(len(list), n)] }

func cleanList(list []string, n int) []string {
	list = head(list, n)
	for i := range list {
		clean(&list[i])
	}
	return list
}

// clean shortens texts and takes out control characters, which a terminal would obey.
func clean(texts ...*string) {
	for _, s := range texts {
		cleanTo(s, maxReportText)
	}
}

func cleanTo(s *string, most int) {
	*s = strings.ToValidUTF8((*s)[:min(len(*s), most)], "")
	*s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, *s)
}
