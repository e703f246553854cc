// Package policies keeps the policy archives (internal/policy) that the desired state names on the satellite's disk, and tells for each client which
// agentproto.PolicyState it should have. It knows no socket: a Source brings archives, the report server hands them out.
//
// # In force
//
// A policy is in force whole or not at all: until every archive of the newest desired state is here and proven, the last complete set (levels and which room each client
// and subnet is in) stays, over restarts too. Login host, accounts and allowed commands have no archive and count at once.
//
// # Disk
//
// The directory holds one file per archive, named by its SHA-256, and "in-force.json". Archives are proven by that digest when they are written and at each
// start; a damaged one is removed and fetched again. What neither the set in force nor the wanted one names is removed.
//
// # Metrics
//
//	ltsp_satellite_policies_archives              archives on the disk
//	ltsp_satellite_policies_missing               archives of the wanted policy that are not here
//	ltsp_satellite_policies_revision              revision of the desired state whose policy is in force
//	ltsp_satellite_policies_fetches_total{result} archives fetched: ok, error
package policies
