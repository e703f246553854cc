// Package gossip joins the satellites of one site by hashicorp/memberlist, of which it is the only importer: who is there, at which address, and
// which versions each has verified. It decides nothing by it.
//
// Membership and failure detection are memberlist's, encrypted with the site's key and labelled with the site's name. The lists of versions are too
// large for its 512 bytes of node metadata: each satellite sends its list over TCP to all members when it changes, and the whole known table
// travels with every push/pull (half a minute), which heals what was lost. codec.go describes the message.
//
// # A new key
//
// is accepted at once and used for sending KeyDelay later, so that the others have it by then; the former one stays accepted.
//
// # Metrics
//
//	ltsp_satellite_gossip_members           members, this satellite included, by state: "alive", "dead", "left"
//	ltsp_satellite_gossip_dropped_total     messages of others that were dropped: queue full or unreadable
package gossip
