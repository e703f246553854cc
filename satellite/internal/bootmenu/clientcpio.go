package bootmenu

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/cpio"
)

// ClientCPIO packs a boot configuration into the client's second initrd: an uncompressed newc archive, which the kernel unpacks before the
// image's own.
func ClientCPIO(b agentproto.BootConfig) ([]byte, error) {
	text, err := EncodeBootConfig(b)
	if err != nil {
		return nil, err
	}
	name := strings.TrimPrefix(agentproto.BootConfigPath, "/")
	var buf bytes.Buffer
	w := cpio.NewWriter(&buf)
	if err := w.Dir(path.Dir(name), 0o755); err != nil {
		return nil, fmt.Errorf("client initrd: %w", err)
	}
	if err := w.File(name, 0o600, text); err != nil {
		return nil, fmt.Errorf("client initrd: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("client initrd: %w", err)
	}
	return buf.Bytes(), nil
}
