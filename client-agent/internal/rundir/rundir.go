// Package rundir names the files by which the agent's three lives (initrd, keeper, resident) tell each other things, and defines their content. They lie
// on the tmpfs that becomes /run, so no reader ever waits for the image.
package rundir

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Dir is where all files lie.
const Dir = "/run/ltsp"

// Files in Dir.
const (
	Agent      = "agent"     // the binary, from which keeper and resident run
	BootConfig = "boot.json" // the boot configuration as it came
	Boot       = "state.json"
	Keeper     = "keeper.json"
	Policy     = "policy"       // directory of the policy states, root's only
	Facts      = "facts.json"   // step.Facts, what the initrd knew of the client
	Applied    = "applied.json" // agentproto.PolicyReport of what is in force
)

// maxFile bounds what is read back, in bytes.
const maxFile = 1 << 20

// BootState is what the initrd learnt and did.
type BootState struct {
	MAC      string `json:"mac"`
	UUID     string `json:"uuid,omitempty"`
	NIC      string `json:"nic"`  // its name in the initrd; udev may have renamed it since
	Addr     string `json:"addr"` // with prefix length
	Hostname string `json:"hostname"`
	// DHCPServer is empty if nobody said which server gave the address.
	DHCPServer string            `json:"dhcp_server,omitempty"`
	Timeline   []agentproto.Step `json:"timeline"`
	// NoPolicy says why the boot went on without a policy; empty if it had one.
	NoPolicy string `json:"no_policy,omitempty"`
	// InRAM tells that the image lies in memory: there is no root connection and no keeper.
	InRAM bool `json:"in_ram,omitempty"`
}

// KeeperState is what the keeper knows of the root connection.
type KeeperState struct {
	PID        int       `json:"pid"`
	Satellite  string    `json:"satellite"` // address:port in use, or last in use
	Connected  bool      `json:"connected"`
	Reconnects uint64    `json:"reconnects"`
	Since      time.Time `json:"since"`           // when Connected last changed
	Error      string    `json:"error,omitempty"` // why the last try failed, while not connected
}

// Write replaces a file in root by v as JSON. Readers see the old or the new content, never a part.
func Write(root *os.Root, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	temp := name + ".new"
	if err := root.WriteFile(temp, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := root.Rename(temp, name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Read reads a file in root that Write wrote.
func Read(root *os.Root, name string, v any) error {
	data, err := root.ReadFile(name)
	if err != nil {
		return err
	}
	if len(data) > maxFile {
		return fmt.Errorf("read %s: %d bytes", name, len(data))
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}
