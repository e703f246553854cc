package upstream

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// MaxProblems is how many problem lines a report carries; further ones are cut.
const MaxProblems = 16

// maxClientReports is how many client reports one message carries.
const maxClientReports = 500

// maxClientEvents is how many events one message carries.
const maxClientEvents = 500

// Status is what the satellite reports of itself.
type Status struct {
	Revision                     uint64
	Versions                     []VersionStatus
	DiskFreeBytes, DiskSizeBytes uint64
	Addresses                    []string // CIDR
	Members                      []Member
	Problems                     []string // the first MaxProblems are sent
	Started                      time.Time
	MemoryBytes                  uint64
	NBDConnections               uint32
	Subnets                      []SubnetStatus
	LoginHost                    LoginHostStatus
}

// LoginHostStatus is how the satellite gets the accounts of the site's login host.
type LoginHostStatus struct {
	PublicKey string // authorized_keys format
	State     string // "ok", "unset", "unreachable", "host-key", "denied" or "error"
	Error     string
	Updated   time.Time // when the accounts were read last; zero: never
	Users     int
}

// VersionState is how far a version is.
type VersionState int

// Version states.
const (
	VersionWaiting VersionState = iota
	VersionFetching
	VersionVerified
	VersionFailed
	VersionServing // clients can boot it while it arrives
)

// VersionStatus is one wanted version.
type VersionStatus struct {
	Image        string
	Number       uint64
	ID           manifest.ID
	State        VersionState
	BytesDone    uint64
	BytesTotal   uint64
	BytesFetched uint64
	Error        string
	Plan         config.Plan // the zero Plan: none yet
	// Started and Finished are when the transfer began and ended; zero: not yet.
	Started, Finished time.Time
	Behind            string // what makes it slower than planned; empty if it is not
}

// BootTrace tells which parts of a version's disk clients read while they booted, first reads first.
type BootTrace struct {
	ID     manifest.ID
	Ranges []TraceRange // at most MaxTraceRanges are sent
	Boots  int
}

// TraceRange is a part of a disk.
type TraceRange struct {
	Offset uint64
	Length uint32
}

// MaxTraceRanges is how many ranges a BootTrace carries.
const MaxTraceRanges = 4096

func (t *BootTrace) proto() *satellitev1.ConnectRequest {
	p := &satellitev1.BootTrace{Id: t.ID[:], Boots: uint32(t.Boots)}
	for _, r := range t.Ranges[:min(len(t.Ranges), MaxTraceRanges)] {
		p.Ranges = append(p.Ranges, &satellitev1.TraceRange{Offset: r.Offset, Length: r.Length})
	}
	return &satellitev1.ConnectRequest{Message: &satellitev1.ConnectRequest_Trace{Trace: p}}
}

// Member is a member of the gossip cluster. State is "alive", "suspect", "dead" or "left".
type Member struct {
	Name, Address, State string
	Versions             []string // IMAGE@DIGEST
}

// SubnetStatus is how a subnet is served. State is "serving", "no-interface", "off" or "error: ...".
type SubnetStatus struct {
	Name              string
	State             string
	Leases, RangeSize uint32
}

// ClientReport is what is known of one client.
type ClientReport struct {
	MAC, UUID                              string
	Time                                   time.Time
	State                                  string
	Reasons                                []string
	Image                                  string
	Number                                 uint64
	Digest                                 []byte
	Hostname, Address, Satellite           string
	Timeline                               []BootStep
	MemoryTotalBytes, MemoryAvailableBytes uint64
	OverlaySizeBytes, OverlayUsedBytes     uint64
	Load1                                  float64
	Uptime                                 time.Duration
	LinkName                               string
	LinkSpeedMbps                          uint32
	NBDConnected                           bool
	NBDReconnects                          uint64
	FailedUnits                            []string
	Kernel, Firmware, AgentBuild           string
	// Policy tells which policy state is in force, PolicyWanted which one should be; both are SHA-256 sums, nil if unknown.
	Policy        []byte
	PolicyWanted  []byte
	PolicyPending []string
	PolicyErrors  []string
	PolicyTook    time.Duration
	Sessions      []ClientSession
}

// ClientSession is a user's login or remote application on a client. Kind is "login" or "remoteapp".
type ClientSession struct {
	Kind, User, App, Host string
	Since                 time.Time
}

// ClientEvent is something that happened on a client.
type ClientEvent struct {
	MAC        string
	Time       time.Time
	Kind, Text string
}

// BootStep is one entry of a boot timeline; At counts from the first packet that the satellite saw. Source is "satellite" or "client".
type BootStep struct {
	Name   string
	At     time.Duration
	Source string
}

func (s VersionState) proto() satellitev1.VersionState {
	switch s {
	case VersionWaiting:
		return satellitev1.VersionState_VERSION_STATE_WAITING
	case VersionFetching:
		return satellitev1.VersionState_VERSION_STATE_FETCHING
	case VersionVerified:
		return satellitev1.VersionState_VERSION_STATE_VERIFIED
	case VersionFailed:
		return satellitev1.VersionState_VERSION_STATE_FAILED
	case VersionServing:
		return satellitev1.VersionState_VERSION_STATE_SERVING
	}
	return satellitev1.VersionState_VERSION_STATE_UNSPECIFIED
}

func (s *Status) proto(build string, now time.Time) *satellitev1.StatusReport {
	p := &satellitev1.StatusReport{
		Revision: s.Revision, DiskFreeBytes: s.DiskFreeBytes, DiskSizeBytes: s.DiskSizeBytes, Addresses: s.Addresses,
		Problems: s.Problems[:min(len(s.Problems), MaxProblems)], Time: timestamppb.New(now), Build: build,
		Started: timestamppb.New(s.Started), MemoryBytes: s.MemoryBytes, NbdConnections: s.NBDConnections,
	}
	for i := range s.Versions {
		p.Versions = append(p.Versions, s.Versions[i].proto())
	}
	for _, m := range s.Members {
		p.Members = append(p.Members, &satellitev1.Member{Name: m.Name, Address: m.Address, State: m.State, Versions: m.Versions})
	}
	l := s.LoginHost
	p.LoginHost = &satellitev1.LoginHostStatus{PublicKey: l.PublicKey, State: l.State, Error: l.Error, Users: uint32(max(l.Users, 0))}
	if !l.Updated.IsZero() {
		p.LoginHost.Updated = timestamppb.New(l.Updated)
	}
	for _, n := range s.Subnets {
		p.Subnets = append(p.Subnets, &satellitev1.SubnetStatus{Name: n.Name, State: n.State, Leases: n.Leases, RangeSize: n.RangeSize})
	}
	return p
}

func (v *VersionStatus) proto() *satellitev1.VersionStatus {
	p := &satellitev1.VersionStatus{Image: v.Image, Number: v.Number, Id: v.ID[:], State: v.State.proto(), BytesDone: v.BytesDone,
		BytesTotal: v.BytesTotal, Error: v.Error, BytesFetched: v.BytesFetched, Plan: planProto(&v.Plan), Behind: v.Behind}
	if !v.Started.IsZero() {
		p.Started = timestamppb.New(v.Started)
	}
	if !v.Finished.IsZero() {
		p.Finished = timestamppb.New(v.Finished)
	}
	return p
}

func (r *ClientReport) proto() *satellitev1.ClientReport {
	p := &satellitev1.ClientReport{
		Mac: r.MAC, Uuid: r.UUID, Time: timestamppb.New(r.Time), State: r.State, Reasons: r.Reasons, Image: r.Image, Number: r.Number,
		Digest: r.Digest, Hostname: r.Hostname, Address: r.Address, Satellite: r.Satellite,
		MemoryTotalBytes: r.MemoryTotalBytes, MemoryAvailableBytes: r.MemoryAvailableBytes,
		OverlaySizeBytes: r.OverlaySizeBytes, OverlayUsedBytes: r.OverlayUsedBytes, Load1: r.Load1, Uptime: durationpb.New(r.Uptime),
		LinkName: r.LinkName, LinkSpeedMbps: r.LinkSpeedMbps, NbdConnected: r.NBDConnected, NbdReconnects: r.NBDReconnects,
		FailedUnits: r.FailedUnits, Kernel: r.Kernel, Firmware: r.Firmware, AgentBuild: r.AgentBuild,
	}
	p.PolicyState, p.PolicyWanted, p.PolicyPending, p.PolicyErrors = r.Policy, r.PolicyWanted, r.PolicyPending, r.PolicyErrors
	if r.PolicyTook > 0 {
		p.PolicyTook = durationpb.New(r.PolicyTook)
	}
	for _, s := range r.Sessions {
		p.Sessions = append(p.Sessions, &satellitev1.ClientSession{Kind: s.Kind, User: s.User, App: s.App, Host: s.Host, Since: timestamppb.New(s.Since)})
	}
	for _, s := range r.Timeline {
		p.Timeline = append(p.Timeline, &satellitev1.BootStep{Name: s.Name, At: durationpb.New(s.At), Source: s.Source})
	}
	return p
}

func resultProto(r config.CommandResult) *satellitev1.ConnectRequest {
	p := &satellitev1.ClientResult{Id: r.ID, Mac: r.MAC, Error: r.Error, Output: r.Output, Exit: int32(r.Exit), NotHere: r.NotHere}
	return &satellitev1.ConnectRequest{Message: &satellitev1.ConnectRequest_Result{Result: p}}
}

func eventsProto(events []ClientEvent) *satellitev1.ConnectRequest {
	p := &satellitev1.ClientEvents{}
	for _, e := range events {
		p.Events = append(p.Events, &satellitev1.ClientEvent{Mac: e.MAC, Time: timestamppb.New(e.Time), Kind: e.Kind, Text: e.Text})
	}
	return &satellitev1.ConnectRequest{Message: &satellitev1.ConnectRequest_Events{Events: p}}
}
