// Package bootfiles serves what clients load before their root file system: boot loaders, scripts, kernels, initrds. Tree
// finds a file by its name, for HTTP (Server) and for TFTP alike; only the satellite's wiring imports the package.
//
// # Names
//
//	boot.ipxe                          script (query: mac, uuid, arch, platform, again; all optional)
//	boot/client.cpio                   boot configuration as a second initrd (the same query; mac is required)
//	boot/script/MAC, .../again         script, without a query
//	boot/client/MAC.cpio               boot configuration, without a query
//	boot/v/ID/ARTIFACT                 kernel or initrd of a version
//	boot/loader/FILE, ltsp/FILE, FILE  boot loader
//	ltsp/ltsp.ipxe                     script, as LTSP names it
//	ltsp/IMAGE/vmlinuz, .../initrd.img kernel and full initrd of the image's current version, as LTSP names them
//
// Leading and doubled slashes do not matter: shim asks for "//grubx64.efi". A root file system (artifact squashfs) is not to be had
// here. HTTP has two more: /healthz and /status (JSON).
//
// # HTTP
//
// GET and HEAD, ranges and entity tags (a version's files never change). Files go out by sendfile: nothing wraps the ResponseWriter. What a client may
// hold is bounded: connections in all and per address, header size, and time: a peer that acknowledges nothing for Config.StallTimeout is
// dropped by the kernel (TCP_USER_TIMEOUT), and a transfer slower than Config.MinBytesPerSecond ends at some time. Aborted
// transfers are normal (firmware asks for a size and resets) and logged at level debug.
//
//	ltsp_satellite_http_connections              gauge
//	ltsp_satellite_http_refused_total{reason}    connections closed at once: total, address
//	ltsp_satellite_http_requests_total{kind}     requests by kind of file: script, config, kernel, initrd, loader, status, none
//	ltsp_satellite_http_delivered_total{kind}    of these, files that went out whole
//	ltsp_satellite_http_sent_bytes_total         bytes of files handed to the kernel
package bootfiles
