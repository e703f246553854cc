// Package nbd serves read-only exports over the NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md; "proto.md" in
// comments): fixed newstyle negotiation with EXPORT_NAME, ABORT, LIST, INFO and GO, simple replies, and the commands READ, FLUSH
// (a no-op) and DISC. Writing commands get EPERM. TLS, structured replies and metadata contexts are answered with "unsupported".
//
// It knows exports by the interface Exports and nothing of images. Codec (proto.go), policy (negotiate.go, judge) and socket
// (link_*.go) are apart. Only the satellite's wiring imports it.
//
// # Never an I/O error for a PC
//
// An error value in a reply reaches the readers of a PC's root file system as an I/O error, for good. A connection that breaks does
// not: the PC's device waits and moves to another satellite. Hence a read that fails on our side, or a server that shuts down, ends
// the connection instead of sending EIO or ESHUTDOWN (proto.md, NBD_CMD_READ: the server MAY then initiate a hard disconnect).
//
// # Exports that are still arriving
//
// An export may be a Waiter. Then each read first waits for its bytes, for as long as the export thinks right; a read that waits holds up
// those behind it on its connection, whose replies go out in order, and no other connection. An export that is complete has no Waiter and
// costs nothing.
//
// # Metrics
//
//	ltsp_satellite_nbd_connections                        open connections, negotiating ones included
//	ltsp_satellite_nbd_connections_total                  accepted connections
//	ltsp_satellite_nbd_refused_connections_total          closed at once, by reason: "limit", "address_limit"
//	ltsp_satellite_nbd_failed_negotiations_total          ended without an export, by reason: "timeout", "protocol", "unknown_export", "closed"
//	ltsp_satellite_nbd_requests_total                     requests, by command: "read", "other"
//	ltsp_satellite_nbd_request_errors_total               requests answered with an error value
//	ltsp_satellite_nbd_read_failures_total                reads of an export that failed here
//	ltsp_satellite_nbd_late_reads_total                   connections ended because what they read had not arrived
//	ltsp_satellite_nbd_sent_bytes_total                   payload bytes of successful reads
package nbd
