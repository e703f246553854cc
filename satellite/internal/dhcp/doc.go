// Package dhcp is the satellite's DHCPv4 server: authoritative, or proxyDHCP beside somebody else's server, with the boot answers
// for PXE firmware, UEFI HTTP boot and iPXE. Only the satellite's wiring imports it; addresses are package lease's decision.
//
// A datagram goes through three steps that are separate functions: "is it usable" (parse), "what do we say" (policy, which
// touches no socket), "how does it get there" (RFC 2131 section 4.1: relay, client address, broadcast, or a frame of our own to a
// client that has no address yet). Policy runs on one goroutine per socket and blocks on nothing. An answer that promises an
// address waits for the disk: lease.Committer makes all who wait share one flush, and a sender of its own takes the answers from
// there. Everything in flight is bounded by Limits.
//
// # Boot answers in authoritative mode
//
// iPXE gets option 175.176 (no-pxedhcp), or it waits two seconds for proxyDHCP offers. BIOS PXE ROMs get option 60 and option 43 with
// discovery control 8, which tells them to take the file and ask nobody else. UEFI PXE gets neither: with option 60 it would
// take the offer for one that needs a boot server and go to port 4011, and several implementations stumble there.
//
// # Boot answers in proxy mode
//
// A proxy answers only DHCPDISCOVERs that say PXEClient, HTTPClient or iPXE, and port 4011. BIOS ROMs, iPXE and HTTP clients find all
// in the offer; UEFI PXE finds an offer without a file, which sends it to port 4011 (seen with OVMF 2022.11).
//
// # Metrics
//
//	ltsp_satellite_dhcp_packets_total{type}        usable packets received, by DHCP message type
//	ltsp_satellite_dhcp_replies_total{type}        replies sent
//	ltsp_satellite_dhcp_dropped_total{reason}      packets without an answer
//	ltsp_satellite_dhcp_range_full_total           discovers that found no free address
//	ltsp_satellite_dhcp_conflicts_total            addresses quarantined: declined, or in use by a stranger
//	ltsp_satellite_dhcp_in_flight                  answers waiting for the disk, a probe or the network
//	ltsp_satellite_dhcp_send_errors_total          replies that could not be sent
//	ltsp_satellite_dhcp_commit_errors_total        lease records that could not be made durable
//	ltsp_satellite_dhcp_sockets                    interfaces that are served now
//	ltsp_satellite_dhcp_leases{subnet,state}       addresses by state: bound, offered, declined
//	ltsp_satellite_dhcp_range_size{subnet}         addresses in the range
package dhcp
