// Package rebuild makes one new version's disk out of an old one and a delta, while clients already read the new one. It knows files, the delta's
// decoder and hashes; where the delta's bytes come from is the Fetch function's business, and which versions there are imagestore's.
//
// # Trust
//
// The only thing that is trusted is the digest of the new version, which its signed manifest names. A piece is 512 KiB of the disk: what one
// level 0 block of the dm-verity tree covers; a span is 128 pieces, 64 MiB: what one level 1 block covers. The delta's index brings the hashes of the
// level 1 blocks, which are checked up to the digest when a rebuild is opened, and the hashes of the level 0 blocks of dirty pieces: those
// that hold bytes of a group. The hashes of the other pieces follow from copying them from the old version. When all 128 are known and
// make a block with the right hash, the span is proven; a piece is given to readers only when its span is proven and its own bytes hash to what the
// span says. A wrong delta or base gives ErrWrong, never wrong bytes.
//
// # Order
//
// Wait puts the spans and groups that its caller lacks in front of all others. Behind them come all spans, so that whatever is not new can be
// read, and the groups in the order of Config.First, then in their own. However many callers wait for a group, it is fetched and decoded once.
//
// # After a crash
//
// Nothing is believed because a journal says so. Open hashes what lies in the two files: groups whose bytes on the wire are right are not
// fetched again, pieces that are right are not made again. After a loss of power what did not reach the disk comes again.
//
// # Metrics
//
//	ltsp_satellite_rebuild_fetched_bytes_total  bytes of deltas that arrived
//	ltsp_satellite_rebuild_groups_total         groups, by what became of them: "fetched", "kept" (found on the disk), "refused" (wrong bytes), "decoded"
//	ltsp_satellite_rebuild_pieces_total         pieces proven, by origin: "copied", "decoded", "kept"
//	ltsp_satellite_rebuild_waits_total          reads that had to wait, by result: "served", "late", "ended"
//	ltsp_satellite_rebuild_wait_seconds         how long they waited
package rebuild
