package api

import (
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

func stateFromProto(s satellitev1.VersionState) fleet.VersionState {
	switch s {
	case satellitev1.VersionState_VERSION_STATE_WAITING:
		return fleet.Waiting
	case satellitev1.VersionState_VERSION_STATE_FETCHING:
		return fleet.Fetching
	case satellitev1.VersionState_VERSION_STATE_VERIFIED:
		return fleet.Verified
	case satellitev1.VersionState_VERSION_STATE_FAILED:
		return fleet.Failed
	case satellitev1.VersionState_VERSION_STATE_SERVING:
		return fleet.Serving
	}
	return ""
}

func stateToProto(s fleet.VersionState) satellitev1.VersionState {
	switch s {
	case fleet.Waiting:
		return satellitev1.VersionState_VERSION_STATE_WAITING
	case fleet.Fetching:
		return satellitev1.VersionState_VERSION_STATE_FETCHING
	case fleet.Verified:
		return satellitev1.VersionState_VERSION_STATE_VERIFIED
	case fleet.Failed:
		return satellitev1.VersionState_VERSION_STATE_FAILED
	case fleet.Serving:
		return satellitev1.VersionState_VERSION_STATE_SERVING
	}
	return satellitev1.VersionState_VERSION_STATE_UNSPECIFIED
}

func versionFromProto(id manifest.ID, v *satellitev1.VersionStatus) fleet.VersionStatus {
	return fleet.VersionStatus{
		Image: v.GetImage(), Number: v.GetNumber(), ID: id, State: stateFromProto(v.GetState()), BytesDone: v.GetBytesDone(), BytesTotal: v.GetBytesTotal(),
		BytesFetched: v.GetBytesFetched(), Error: v.GetError(), Plan: planFromProto(v.GetPlan()), Started: moment(v.GetStarted()),
		Finished: moment(v.GetFinished()), Behind: v.GetBehind(),
	}
}

func versionToProto(v fleet.VersionStatus) *satellitev1.VersionStatus {
	return &satellitev1.VersionStatus{
		Image: v.Image, Number: v.Number, Id: v.ID[:], State: stateToProto(v.State), BytesDone: v.BytesDone, BytesTotal: v.BytesTotal,
		BytesFetched: v.BytesFetched, Error: v.Error, Plan: planToProto(v.Plan), Started: stamp(v.Started), Finished: stamp(v.Finished), Behind: v.Behind,
	}
}

// statusFromProto reads a report; what is malformed in it is left out.
func statusFromProto(p *satellitev1.StatusReport) fleet.Status {
	s := fleet.Status{
		Revision: p.GetRevision(), DiskFreeBytes: p.GetDiskFreeBytes(), DiskSizeBytes: p.GetDiskSizeBytes(), Addresses: p.GetAddresses(), Problems: p.GetProblems(),
		Time: moment(p.GetTime()), Build: p.GetBuild(), Started: moment(p.GetStarted()), MemoryBytes: p.GetMemoryBytes(), NBDConnections: p.GetNbdConnections(),
	}
	for _, v := range p.GetVersions() {
		id, err := manifest.IDFromBytes(v.GetId())
		if err != nil {
			continue
		}
		s.Versions = append(s.Versions, versionFromProto(id, v))
	}
	for _, m := range p.GetMembers() {
		s.Members = append(s.Members, fleet.Member{Name: m.GetName(), Address: m.GetAddress(), State: m.GetState(), Versions: m.GetVersions()})
	}
	s.LoginHost = loginStatusFromProto(p.GetLoginHost())
	for _, n := range p.GetSubnets() {
		s.Subnets = append(s.Subnets, fleet.SubnetStatus{Name: n.GetName(), State: n.GetState(), Leases: n.GetLeases(), RangeSize: n.GetRangeSize()})
	}
	return s
}

func statusToProto(s fleet.Status) *satellitev1.StatusReport {
	p := &satellitev1.StatusReport{
		Revision: s.Revision, DiskFreeBytes: s.DiskFreeBytes, DiskSizeBytes: s.DiskSizeBytes, Addresses: s.Addresses, Problems: s.Problems,
		Time: stamp(s.Time), Build: s.Build, Started: stamp(s.Started), MemoryBytes: s.MemoryBytes, NbdConnections: s.NBDConnections,
		LoginHost: loginStatusToProto(s.LoginHost),
	}
	for _, v := range s.Versions {
		p.Versions = append(p.Versions, versionToProto(v))
	}
	for _, m := range s.Members {
		p.Members = append(p.Members, &satellitev1.Member{Name: m.Name, Address: m.Address, State: m.State, Versions: m.Versions})
	}
	for _, n := range s.Subnets {
		p.Subnets = append(p.Subnets, &satellitev1.SubnetStatus{Name: n.Name, State: n.State, Leases: n.Leases, RangeSize: n.RangeSize})
	}
	return p
}

func reportFromProto(p *satellitev1.ClientReport) fleet.ClientReport {
	c := fleet.ClientReport{
		MAC: fleet.MAC(p.GetMac()), UUID: p.GetUuid(), Time: moment(p.GetTime()), State: p.GetState(), Reasons: p.GetReasons(), Image: p.GetImage(), Number: p.GetNumber(),
		Hostname: p.GetHostname(), Address: p.GetAddress(), MemoryTotalBytes: p.GetMemoryTotalBytes(), MemoryAvailableBytes: p.GetMemoryAvailableBytes(),
		OverlaySizeBytes: p.GetOverlaySizeBytes(), OverlayUsedBytes: p.GetOverlayUsedBytes(), Load1: finite(p.GetLoad1()), Uptime: duration(p.GetUptime()),
		LinkName: p.GetLinkName(), LinkSpeedMbps: p.GetLinkSpeedMbps(), NBDConnected: p.GetNbdConnected(), NBDReconnects: p.GetNbdReconnects(),
		FailedUnits: p.GetFailedUnits(), Kernel: p.GetKernel(), Firmware: p.GetFirmware(), AgentBuild: p.GetAgentBuild(),
	}
	if d := p.GetDigest(); len(d) == len(c.Digest) {
		c.Digest = fleet.Hash(d)
	}
	policyReportFromProto(p, &c)
	for _, s := range p.GetTimeline() {
		c.Timeline = append(c.Timeline, fleet.BootStep{Name: s.GetName(), At: duration(s.GetAt()), Source: s.GetSource()})
	}
	return c
}

// finite keeps infinities and NaN, which JSON cannot hold, out of the store.
func finite(f float64) float64 {
	if f-f != 0 {
		return 0
	}
	return f
}

func reportToProto(c fleet.ClientReport) *satellitev1.ClientReport {
	p := &satellitev1.ClientReport{
		Mac: string(c.MAC), Uuid: c.UUID, Time: stamp(c.Time), State: c.State, Reasons: c.Reasons, Image: c.Image, Number: c.Number, Digest: hashBytes(c.Digest),
		Hostname: c.Hostname, Address: c.Address, Satellite: c.Satellite, MemoryTotalBytes: c.MemoryTotalBytes, MemoryAvailableBytes: c.MemoryAvailableBytes,
		OverlaySizeBytes: c.OverlaySizeBytes, OverlayUsedBytes: c.OverlayUsedBytes, Load1: c.Load1, Uptime: span(c.Uptime),
		LinkName: c.LinkName, LinkSpeedMbps: c.LinkSpeedMbps, NbdConnected: c.NBDConnected, NbdReconnects: c.NBDReconnects,
		FailedUnits: c.FailedUnits, Kernel: c.Kernel, Firmware: c.Firmware, AgentBuild: c.AgentBuild,
	}
	policyReportToProto(&c, p)
	for _, s := range c.Timeline {
		p.Timeline = append(p.Timeline, &satellitev1.BootStep{Name: s.Name, At: span(s.At), Source: s.Source})
	}
	return p
}
