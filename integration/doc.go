// Package integration holds the tests that run the built binaries from outside. End to end (build tag e2e, `make e2e`): a real Debian image and
// virtual PCs. Component (build tag component, `make component`): daemons in network namespaces that are killed, cut off, filled up and
// lied to, and other people's programs as their clients; every version must come out byte for byte or not at all. LTSP_SEED=N chooses
// other random points for the faults.
package integration
