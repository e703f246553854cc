// Package upstream is the satellite's side of the connection to the controller, and the only importer of generated code in the satellite. It
// joins a site (Join), keeps one stream open over which desired state and commands come down and reports, events and results go up (Client.Run), asks how a version should
// come (Client.PlanSync), gets manifests, chunks, deltas and policies (Client.Manifest, Client.Fetch, Client.FetchDelta, Client.FetchPolicy) and renews the certificate.
//
// # Connections
//
// Two TLS connections: one for the stream and small calls, one for chunks and deltas, so that a report does not queue behind megabytes. Keepalive pings
// after 15 s of silence find a dead WAN within 25 s. After a failure the next attempt waits 0.5 s plus a random part of 1 s, 2 s, 4 s ... 60 s; the
// stream's first message ends the series.
//
// # Certificates
//
// A certificate is renewed at two thirds of its life, or whenever a connection begins after that, even if it has expired meanwhile (the
// controller decides whether that is allowed). The new one is presented from then on; the old one is dropped when the controller has
// answered a stream opened with the new one, and is taken up again if the controller refuses the new one.
//
// # Metrics
//
//	ltsp_satellite_upstream_connected                   1 while the stream is up
//	ltsp_satellite_upstream_sessions_total              streams that the controller answered
//	ltsp_satellite_upstream_failures_total              attempts and streams that failed
//	ltsp_satellite_upstream_renewals_total              certificate renewals, by result: "ok", "error"
//	ltsp_satellite_upstream_certificate_expiry_seconds  Unix time at which the certificate expires
//	ltsp_satellite_upstream_client_reports_total        client reports sent
//	ltsp_satellite_upstream_client_events_total         client events sent
package upstream
