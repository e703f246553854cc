package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// Local is what the machine's administrator decides. Default returns the documented values.
type Local struct {
	// DataDir holds identity, state and images.
	DataDir string
	// Interfaces that are served. Empty: every interface with an address in a subnet of the site.
	Interfaces []string
	// Metrics is the address of /metrics; empty: none.
	Metrics string
	// TCP and UDP ports.
	NBDPort, HTTPPort, ReportPort, GossipPort uint16
	// Streams is how many chunk requests run at once, 1 to 16.
	Streams int
	// Retain is how many former versions of each image stay for a rollback.
	Retain int
	// DeltaMemoryBytes bounds the memory that decoding a delta takes, at least MinDeltaMemory.
	DeltaMemoryBytes int64
	// ReserveBytes of the disk are never filled with images.
	ReserveBytes uint64
}

// MinDeltaMemory is the least memory that deltas of large images can be decoded in.
const MinDeltaMemory = 64 << 20

// Default returns the values that hold if the command line says nothing.
func Default() Local {
	return Local{
		DataDir: "/var/lib/ltsp-satellite", Metrics: "127.0.0.1:7402",
		NBDPort: 10809, HTTPPort: 80, ReportPort: 7443, GossipPort: 7946,
		Streams: 4, Retain: 1, DeltaMemoryBytes: 512 << 20, ReserveBytes: 256 << 20,
	}
}

// Validate reports the first setting that makes no sense.
func (l Local) Validate() error {
	if l.DataDir == "" || !filepath.IsAbs(l.DataDir) {
		return fmt.Errorf("data directory %q: want an absolute path", l.DataDir)
	}
	if l.Metrics != "" {
		if _, err := netip.ParseAddrPort(l.Metrics); err != nil {
			return fmt.Errorf("metrics address %q: want ADDRESS:PORT", l.Metrics)
		}
	}
	if l.NBDPort == 0 || l.HTTPPort == 0 || l.ReportPort == 0 || l.GossipPort == 0 {
		return errors.New("port 0 is not allowed")
	}
	if l.NBDPort == l.HTTPPort || l.NBDPort == l.ReportPort || l.HTTPPort == l.ReportPort {
		return errors.New("NBD, HTTP and report ports must differ")
	}
	if l.Streams < 1 || l.Streams > 16 {
		return fmt.Errorf("%d streams: want 1 to 16", l.Streams)
	}
	if l.Retain < 0 || l.Retain > 16 {
		return fmt.Errorf("%d retained versions: want 0 to 16", l.Retain)
	}
	if l.DeltaMemoryBytes < MinDeltaMemory {
		return fmt.Errorf("%d bytes of memory for deltas: want at least %d", l.DeltaMemoryBytes, MinDeltaMemory)
	}
	for _, name := range l.Interfaces {
		if name == "" || len(name) > 15 || strings.ContainsAny(name, "/ \t\n") {
			return fmt.Errorf("interface name %q is not one", name)
		}
	}
	return nil
}
