// Package logintest has tests only: the agent's login, homes and remote applications against real programs (sshd, PAM, sshfs, an X server). What it tests
// lies in login, loginhost, home, pam and remoteapps; they run with the tag component, as root.
package logintest
