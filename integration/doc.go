// Package integration holds the end-to-end tests: the built binaries, a real Debian image, virtual PCs. Run them with `make e2e`.
package integration
