// Package remoteapps makes programs of other hosts look like programs of the client: launchers that come and go with the policy (Register), and what a
// launcher does (Run): choose a host that answers, see to the user's key, and show the program by ssh -X, or by waypipe in a Wayland session.
package remoteapps
