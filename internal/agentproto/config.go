package agentproto

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Bounds of a boot configuration. A reader refuses what exceeds them.
const (
	// MaxBootConfig bounds the JSON text in bytes.
	MaxBootConfig = 1 << 20
	// MaxSatellites and MaxDNS bound the lists.
	MaxSatellites = 64
	MaxDNS        = 8
	// MaxTimeout bounds both NBD times.
	MaxTimeout = 24 * time.Hour
	// BlockSize is the data and hash block size of dm-verity; DataBytes is a multiple of it.
	BlockSize = 4096
	// sectorSize is the smallest block that a Linux block device can have.
	sectorSize = 512
	maxName    = 253
)

// ErrBadConfig is wrapped by every error of ParseBootConfig and BootConfig.Validate.
var ErrBadConfig = errors.New("bad boot configuration")

// ParseBootConfig reads the JSON text of a boot configuration and validates it. Fields it does not know are ignored.
func ParseBootConfig(data []byte) (*BootConfig, error) {
	if len(data) > MaxBootConfig {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrBadConfig, len(data), MaxBootConfig)
	}
	// The version comes first: another version may give other meanings, even other types, to the rest.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBadConfig, err)
	}
	if head.Version != Version {
		return nil, versionError(head.Version)
	}
	var c BootConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBadConfig, err)
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &c, nil
}

func versionError(v int) error {
	return fmt.Errorf("%w: version %d, this agent reads version %d: publish the image again so that agent and satellite match",
		ErrBadConfig, v, Version)
}

// Validate checks c by the rules of FORMAT.md. It does not look into the trust anchor beyond its PEM frame.
func (c *BootConfig) Validate() error {
	if c.Version != Version {
		return versionError(c.Version)
	}
	for _, check := range []func(*BootConfig) error{checkNames, checkDisk, checkSatellites, checkIdentity, checkClient} {
		if err := check(c); err != nil {
			return fmt.Errorf("%w: %w", ErrBadConfig, err)
		}
	}
	return nil
}

func checkNames(c *BootConfig) error {
	if err := checkName("site", c.Site); err != nil {
		return err
	}
	if err := checkName("image", c.Image); err != nil {
		return err
	}
	if !isLowerHex(c.Digest, 64) {
		return fmt.Errorf("digest %.80q is not 64 lower-case hex digits", c.Digest)
	}
	if want := c.Image + "@" + c.Digest; c.Export != want {
		return fmt.Errorf("export %.100q, want %q", c.Export, want)
	}
	return nil
}

func checkDisk(c *BootConfig) error {
	switch {
	case c.DataBytes == 0 || c.DataBytes%BlockSize != 0:
		return fmt.Errorf("data_bytes %d is no positive multiple of %d", c.DataBytes, BlockSize)
	case c.SizeBytes < c.DataBytes:
		return fmt.Errorf("size_bytes %d is below data_bytes %d", c.SizeBytes, c.DataBytes)
	case c.SizeBytes > 1<<62:
		return fmt.Errorf("size_bytes %d is above the limit", c.SizeBytes)
	case c.SizeBytes%sectorSize != 0:
		return fmt.Errorf("size_bytes %d is no multiple of %d", c.SizeBytes, sectorSize)
	case c.OverlaySizePercent < 0 || c.OverlaySizePercent > 100:
		return fmt.Errorf("overlay_size_percent %d is not between 0 and 100", c.OverlaySizePercent)
	}
	if err := checkTimeout("nbd_timeout", c.NBDTimeout); err != nil {
		return err
	}
	return checkTimeout("dead_timeout", c.DeadTimeout)
}

// checkTimeout allows zero (the default) and whole seconds, which is what the kernel's nbd driver counts in.
func checkTimeout(field string, d Duration) error {
	if d < 0 || time.Duration(d) > MaxTimeout || time.Duration(d)%time.Second != 0 {
		return fmt.Errorf("%s %v is not a number of whole seconds up to %v", field, d, MaxTimeout)
	}
	return nil
}

func checkSatellites(c *BootConfig) error {
	if len(c.Satellites) == 0 {
		return errors.New("no satellite is listed")
	}
	if len(c.Satellites) > MaxSatellites {
		return fmt.Errorf("%d satellites, the limit is %d", len(c.Satellites), MaxSatellites)
	}
	for i, s := range c.Satellites {
		addr, err := netip.ParseAddr(s.Addr)
		if err != nil || addr.IsUnspecified() || addr.IsMulticast() {
			return fmt.Errorf("satellite %d: %.80q is not the IP address of a machine", i, s.Addr)
		}
		if s.NBDPort == 0 || s.ReportPort == 0 {
			return fmt.Errorf("satellite %d (%s): port 0", i, s.Addr)
		}
	}
	return nil
}

func checkIdentity(c *BootConfig) error {
	block, _ := pem.Decode([]byte(c.TrustAnchor))
	if block == nil || block.Type != "CERTIFICATE" {
		return errors.New("trust_anchor is not a certificate in PEM")
	}
	if !isLowerHex(c.Token, 32) {
		return errors.New("token is not 32 lower-case hex digits")
	}
	return nil
}

func checkClient(c *BootConfig) error {
	if c.Hostname != "" && !IsHostname(c.Hostname) {
		return fmt.Errorf("hostname %.80q is not a host name", c.Hostname)
	}
	if len(c.DNS) > MaxDNS {
		return fmt.Errorf("%d DNS servers, the limit is %d", len(c.DNS), MaxDNS)
	}
	for _, s := range c.DNS {
		if _, err := netip.ParseAddr(s); err != nil {
			return fmt.Errorf("DNS server %.80q is not an IP address", s)
		}
	}
	if c.SearchDomain != "" && !isDomain(c.SearchDomain) {
		return fmt.Errorf("search_domain %.80q is not a domain name", c.SearchDomain)
	}
	return nil
}

// checkName refuses what could not be one segment of an identity URI or one word of a log line.
func checkName(field, s string) error {
	if s == "" || len(s) > maxName {
		return fmt.Errorf("%s %.80q must have 1 to %d bytes", field, s, maxName)
	}
	for _, r := range s {
		if r <= ' ' || r == '/' || r == '@' || r >= 0x7f {
			return fmt.Errorf("%s %.80q holds %q", field, s, r)
		}
	}
	return nil
}

// IsHostname tells whether s is one label that a host may be called (RFC 1123 section 2.1): letters, digits and inner hyphens,
// at most 63 bytes.
func IsHostname(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-') {
			return false
		}
	}
	return true
}

// isDomain accepts dot-separated labels; underscores occur in search domains and are let through.
func isDomain(s string) bool {
	if len(s) > maxName {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !IsHostname(strings.ReplaceAll(label, "_", "x")) {
			return false
		}
	}
	return true
}

func isLowerHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for _, r := range s {
		if !(r >= '0' && r <= '9' || r >= 'a' && r <= 'f') {
			return false
		}
	}
	return true
}
