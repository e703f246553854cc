// Package imagestore keeps image versions on the satellite's disk, whole and proven. It knows manifests and files; where chunks come from is
// chunksync's business, and who reads a version the servers'.
//
// # On the disk
//
//	images/ID/manifest     the signed manifest
//	images/ID/disk         of an image: squashfs, zero padding to 4096 bytes, dm-verity tree: what an NBD export shows
//	images/ID/kernel ...   the other artifacts
//	incoming/ID/           the same while it arrives; sparse
//	incoming/ID/delta      the delta by which the squashfs comes, as far as it is here; sparse
//	incoming/ID/plan       which delta that is: JSON of config.Delta
//
// ID is the version ID in hex. A directory moves from incoming to images by one rename, after every chunk was verified, each
// artifact's SHA-256 and the tree's root matched and all was synced. A version costs its artifacts plus the tree (1/127 of
// the squashfs); versions do not share space.
//
// A squashfs comes as chunks or by a delta; whoever brings it by a delta writes the disk file himself. The other artifacts come as chunks, or as files
// that are here already. When all of these are complete, the version can be served while its squashfs arrives: handles of such a
// version wait for what is lacking (Reads), and stay good when it moves to images. A version that came by a delta is the same on the disk
// as one that came as chunks.
//
// # Proof
//
// Nothing is served because a journal says it is complete. After a start each version in images is unproven until its signature and
// every byte were checked; one that fails goes back to incoming, where Scan keeps the chunks that are good. The same Scan resumes
// a version whose transfer was cut, by kill -9 or otherwise.
//
// # Metrics
//
//	ltsp_satellite_images_versions            versions on the disk, by state: "unproven", "verified", "incoming"
//	ltsp_satellite_images_open_handles        open handles of exports
//	ltsp_satellite_images_disk_free_bytes     free space of the file system
//	ltsp_satellite_images_disk_size_bytes     size of the file system
//	ltsp_satellite_images_damaged_total       versions that failed their proof
//	ltsp_satellite_images_mended_blocks_total hash tree blocks that were damaged and recomputed
package imagestore
