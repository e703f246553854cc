package applet

import (
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
)

// debugFile is where an administrator looks for what scripts have printed.
const debugFile = "/run/ltsp/debug.log"

// maxDebugLog bounds what one run adds to the file, in bytes; what is more is not in it.
const maxDebugLog = 256 << 10

// debugLog keeps what scripts print, and what went wrong, until it is known whether DEBUG_LOG wants it.
type debugLog struct {
	log *slog.Logger

	mu   sync.Mutex // the shell's output comes from another goroutine
	text strings.Builder
}

// script takes a line that a script has printed.
func (d *debugLog) script(line string) {
	d.log.Info("script", "line", line)
	d.note(line)
}

func (d *debugLog) note(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.text.Len() < maxDebugLog {
		d.text.WriteString(time.Now().Format("15:04:05.000000000 ") + line + "\n")
	}
}

// save adds to the file. One that has grown beyond measure begins anew.
func (d *debugLog) save(root rootdir.Root) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	old, err := root.ReadFile(debugFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(old) > 4*maxDebugLog {
		old = nil
	}
	return root.WriteFileMode(debugFile, string(old)+d.text.String(), 0o600)
}
