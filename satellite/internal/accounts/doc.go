// Package accounts watches the users and groups of the site's login host: over one SSH connection, or on this machine if that is the login host. It is the
// only importer of the SSH client in the satellite.
//
// # Remote
//
// The satellite has a key pair of its own (ed25519, "login-key" in its directory, mode 0600), whose public key the login host must accept for the account in
// the site's settings. It speaks only to a host that proves one of the pinned host keys; without pinned keys, or when the host has another, it
// sends nothing and says so. On the connection runs one command for as long as possible: Script, or what the host's
// authorized_keys forces in its stead, which must print the same:
//
//	LTSP-ACCOUNTS PASSWD GROUP   the lengths in bytes of the two texts that follow behind the line end, without their own last line ends
//	LTSP-ALIVE                   nothing has changed
//
// Lines before the first of these are ignored: shells may greet. Each account is checked, and its password field blanked, before anything else sees it.
//
// # Away
//
// The last known accounts are kept on the disk and stay when the login host can't be reached. Attempts follow after 1 s, doubling up to a minute.
//
// # Short lists
//
// getent(1) tells no error when a directory fails partway. A remote list that has lost at least 5 users or groups, and more than half of them, stays out until it has been short
// for an hour of one connection; the system's own accounts (IDs below 1000, nobody) do not count. A longer list, or any of another login host, counts at once.
//
// # Metrics
//
//	ltsp_satellite_accounts_ok                     1 while the accounts are watched
//	ltsp_satellite_accounts_held                   1 while the login host's list is much shorter than the known one and does not count yet
//	ltsp_satellite_accounts_users                  ordinary users that are known
//	ltsp_satellite_accounts_updates_total          accounts read that were others than before
//	ltsp_satellite_accounts_failures_total{state}  attempts that failed: unreachable, host-key, denied, error
package accounts
