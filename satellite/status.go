package satellite

import (
	"bytes"
	"net/netip"
	"os"
	"strconv"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/chunksync"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/health"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream"
)

// status makes the report to the controller.
func (s *Satellite) status() upstream.Status {
	desired := s.director.current()
	if desired == nil {
		desired = new(config.Desired)
	}
	free, size, _ := s.store.Space() // 0 if it can't be told
	out := upstream.Status{
		Revision: desired.Revision, DiskFreeBytes: free, DiskSizeBytes: size, Addresses: s.addresses(desired), Problems: s.board.Lines(),
		Started: s.started, MemoryBytes: residentBytes(), NBDConnections: uint32(len(s.nbd.Connections())),
	}
	done := make(map[manifest.ID]chunksync.Status)
	for _, st := range s.sync.Status() {
		done[st.Version.ID] = st
	}
	for _, v := range desired.Versions {
		out.Versions = append(out.Versions, versionStatus(v, done[v.ID]))
	}
	for _, m := range s.gossip.Members() {
		out.Members = append(out.Members, upstream.Member{Name: m.Name, Address: m.Address.Addr().String(), State: m.State, Versions: m.Versions})
	}
	login := s.accounts.Status()
	out.LoginHost = upstream.LoginHostStatus{PublicKey: login.PublicKey, State: string(login.State), Error: login.Error, Updated: login.Updated, Users: login.Users}
	leases := s.leases()
	states := s.director.subnetStates()
	for _, n := range desired.Subnets {
		out.Subnets = append(out.Subnets, upstream.SubnetStatus{Name: n.Name, State: states[n.Name].state, Leases: leases[n.Name], RangeSize: rangeSize(n)})
	}
	return out
}

func versionStatus(v config.Version, st chunksync.Status) upstream.VersionStatus {
	out := upstream.VersionStatus{Image: v.Image, Number: v.Number, ID: v.ID, BytesDone: st.Done, BytesTotal: st.Total, BytesFetched: st.Fetched,
		Plan: st.Plan, Started: st.Started, Finished: st.Finished, Behind: st.Behind}
	switch st.State {
	case chunksync.Fetching, chunksync.Proving:
		out.State = upstream.VersionFetching
	case chunksync.Verified:
		out.State = upstream.VersionVerified
	case chunksync.Failed:
		out.State = upstream.VersionFailed
	case chunksync.Serving:
		out.State = upstream.VersionServing
	}
	if st.Err != nil {
		out.Error = st.Err.Error()
	}
	return out
}

// localStatus is what "ltsp-satellite status" shows.
func (s *Satellite) localStatus() health.Status {
	r := s.status()
	out := health.Status{Site: s.id.Site(), Satellite: s.id.Name(), Build: s.cfg.Build, Started: s.started, Controller: s.id.Controller(),
		Connected: s.up.Online(), Revision: r.Revision, Problems: r.Problems, DiskFreeBytes: r.DiskFreeBytes, DiskSizeBytes: r.DiskSizeBytes,
		MemoryBytes: r.MemoryBytes, NBDConnections: int(r.NBDConnections), Clients: make(map[string]int)}
	if leaf := s.id.Holder().Leaf(); leaf != nil {
		out.CertificateExpires = leaf.NotAfter
	}
	for state, n := range s.registry.Counts() {
		out.Clients[string(state)] = n
	}
	for _, m := range r.Members {
		out.Members = append(out.Members, health.Member(m))
	}
	desired := s.director.current()
	out.LoginHost = health.LoginHost{State: r.LoginHost.State, Error: r.LoginHost.Error, Users: r.LoginHost.Users, Updated: r.LoginHost.Updated, PublicKey: r.LoginHost.PublicKey}
	policy := s.policies.Status()
	out.Policy = health.Policy{Revision: policy.Revision, Levels: policy.Levels, Missing: policy.Missing}
	if desired == nil {
		return out
	}
	out.LoginHost.Address = desired.Login.Address
	states := map[manifest.ID]chunksync.State{}
	for _, st := range s.sync.Status() {
		states[st.Version.ID] = st.State
	}
	for i, v := range r.Versions {
		if i >= len(desired.Versions) {
			break
		}
		out.Versions = append(out.Versions, health.Version{Image: v.Image, Number: v.Number, ID: v.ID.String(), State: states[v.ID].String(),
			Channels: desired.Versions[i].Channels, BytesDone: v.BytesDone, BytesTotal: v.BytesTotal, BytesFetched: v.BytesFetched, Error: v.Error,
			Method: string(v.Plan.Method), Reason: v.Plan.Reason, Behind: v.Behind})
	}
	subnets := s.director.subnetStates()
	for i, n := range r.Subnets {
		if i >= len(desired.Subnets) {
			break
		}
		out.Subnets = append(out.Subnets, health.Subnet{Name: n.Name, State: n.State, Leases: n.Leases, RangeSize: n.RangeSize,
			CIDR: desired.Subnets[i].CIDR.String(), Mode: string(desired.Subnets[i].Mode), Interface: subnets[n.Name].iface})
	}
	return out
}

// addresses returns the satellite's addresses: those in subnets of the site first, then other global ones.
func (s *Satellite) addresses(desired *config.Desired) []string {
	ifaces, err := interfaces()
	if err != nil {
		return nil
	}
	links, _ := config.Match(desired.Subnets, ifaces, s.cfg.Local.Interfaces)
	seen := make(map[netip.Prefix]bool)
	var out []string
	add := func(p netip.Prefix) {
		if !seen[p] {
			seen[p] = true
			out = append(out, p.String())
		}
	}
	for _, l := range links {
		add(l.Address)
	}
	for _, i := range ifaces {
		for _, p := range i.Addresses {
			if i.Up && p.Addr().IsGlobalUnicast() && len(out) < maxAddresses {
				add(p)
			}
		}
	}
	return out
}

// maxAddresses bounds the addresses in a report.
const maxAddresses = 32

// leases counts the addresses in use by subnet.
func (s *Satellite) leases() map[string]uint32 {
	out := make(map[string]uint32)
	for _, l := range s.dhcp.Leases() {
		if l.State == lease.Bound {
			out[l.Subnet]++
		}
	}
	return out
}

// rangeSize is the number of addresses in a subnet's range.
func rangeSize(s config.Subnet) uint32 {
	if !s.RangeStart.Is4() || !s.RangeEnd.Is4() || s.RangeEnd.Less(s.RangeStart) {
		return 0
	}
	return number(s.RangeEnd) - number(s.RangeStart) + 1
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// residentBytes is the memory of this process, from /proc/self/statm; 0 if that can't be read.
func residentBytes() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := bytes.Fields(text)
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(string(f[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}
