// Package lease decides which IPv4 address a DHCP client gets: ranges, reservations, offers, leases, releases and declines as in
// RFC 2131 section 4.3. It is a table and a clock: no sockets, no database, no packets. What must survive a crash leaves it as
// Records, which go to a Log; Committer makes many waiting clients share one durable write.
//
// # Who is a client
//
// A client is its Ethernet address (chaddr). RFC 2131 section 4.2 would have a server take the client identifier (option 61)
// when there is one. We don't, on purpose: the firmware, iPXE and the operating system of one PC send three different
// identifiers (or none) with the same chaddr, and all three must get one address, or a classroom needs three times the range and
// the address in the boot log is not the address of the running PC. Servers made for network boot offer the same policy
// as a switch. The identifier is kept for reports, and it is the key for a client without an Ethernet address (all zero).
//
// # Which address
//
// In this order (RFC 2131 section 4.3.1): the reserved one; the one the client has or had last; the one it asks for; one that
// nobody ever had, chosen by a hash of the client so that a new satellite with an empty table tends to choose the same; the one
// whose lease ended longest ago. A reserved address that someone else still holds is not taken away from that one: the client
// with the reservation gets another address until it is free.
//
// A lease that is in use is never refused because the configuration has changed: the root file system of a diskless client hangs
// on its address. Renewals pass; the next boot obeys the new configuration.
package lease
