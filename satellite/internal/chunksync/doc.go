// Package chunksync brings the wanted versions onto the disk: it decides what to prove, what to copy from versions that are here already and
// what to fetch, and does it with a bounded number of streams. Files are imagestore's, the wire is the Source's.
//
// One version is worked on at a time, in the order of the wanted list; one that can't go on waits (1 s to 60 s, doubling, full jitter)
// and lets the next have its turn. Before anything is fetched all versions on the disk are proven: they are served as soon as
// they are, and give their chunks to the others.
//
// How a version comes, the controller says (Planner): by a delta from a version that is here, chunk by chunk without those that are here, or whole. By a
// delta, room rebuild makes the disk; as soon as its metadata stands and the other files are here, clients are let in. A rebuild runs beside the
// other work, so that those who read are always served; its turn decides only whether it may fetch what nobody waits for. A delta
// that does not make the version is not tried again: chunks do, and what is right on the disk is kept.
//
// Memory: the manifest of the version that is worked on (36 bytes per chunk, plus 12 for the layout and 40 while planning), and one chunk per stream.
//
// # Metrics
//
//	ltsp_satellite_sync_chunks_total    chunks written, by source: "controller", "disk"
//	ltsp_satellite_sync_bytes_total     their bytes
//	ltsp_satellite_sync_failures_total  attempts that failed, by cause: "manifest", "space", "corrupt", "source", "disk"
//	ltsp_satellite_sync_behind_total    transfers that fell behind their plan
//	ltsp_satellite_sync_pending_versions  wanted versions that are not verified
package chunksync
