// Package clients is the registry of the PCs that this satellite has seen: where each is in its boot, what it reported last, which report
// token it has. It decides and remembers; it knows no socket. Other rooms tell it what they see (Saw), the report server what
// agents say (Hello, Report, Failure), and the upstream room takes changes from it (Notify, Pending).
//
// # Boot timeline
//
// All times of a timeline count from the first packet of this boot that the satellite saw, on the satellite's monotonic clock. Steps come
// from two sources. Those of the satellite (DHCP, loader, script, kernel, initrd, NBD) are stamped when they are told here. Those
// of the client count from its kernel's start (CLOCK_BOOTTIME), so that wrong clocks do no harm; they are moved by the moment at which that
// kernel started on the satellite's clock. Each report that tells its uptime gives an upper bound for that moment: arrival minus uptime,
// late by the report's delay only; the least bound seen is used. It cannot be before the last boot file was sent, which
// is the lower bound, and serves alone while no report has told its uptime.
//
// # A new boot
//
// begins with a DISCOVER by boot firmware or iPXE when a script has been fetched since the last, or nothing was seen for
// Config.NewBootAfter; or with a script that is fetched once boot files were sent or the agent was heard, or Config.NewBootAfter
// after the last one. A script that asks again by itself (Sighting.Again) never begins one. DHCP between the loader and the
// script is iPXE's and gets names of its own.
//
// # States
//
// booting (until the agent reports), then what the agent says (booting, starting, healthy, degraded), failed (the agent told of a failure in the
// initrd), lost (no report for Config.LostAfter, or a boot that showed no sign of life for Config.BootTimeout). A sign of life ends lost.
//
// # Bounds and metrics
//
// At most Config.MaxClients are kept; the one that was silent for longest makes room. Metrics:
//
//	ltsp_satellite_clients{state}                  gauge: clients known
//	ltsp_satellite_clients_dropped_total           clients that had to make room for others
//	ltsp_satellite_client_boots_total              boots that began
//	ltsp_satellite_client_boot_duration_seconds    histogram: first packet to healthy
package clients
