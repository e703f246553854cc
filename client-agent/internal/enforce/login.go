package enforce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/pam"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/remoteapps"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

// login gives the steps what the rooms pam and remoteapps do.
type login struct{ log *slog.Logger }

var (
	_ step.PAM        = login{}
	_ step.RemoteApps = login{}
)

// Install has PAM ask the agent. An image whose PAM files are another distribution's stays as it is.
func (l login) Install(_ context.Context, root rootdir.Root, s step.PAMSettings) error {
	dir, err := os.OpenRoot(string(root))
	if err != nil {
		return err
	}
	defer dir.Close()
	values := map[string]string{
		"PAM_AUTH_TYPE": s.AuthType, "SSH_SERVER": s.SSHServer, "SSH_OPTIONS": s.SSHOptions, "SSHFS": s.SSHFS, "MKHOMEDIR": s.MkHomeDir,
	}
	report, err := pam.Configure(dir, loginconf.FromVariables(func(name string) string { return values[name] }))
	if errors.Is(err, pam.ErrUnmanaged) {
		l.log.Warn("users of the login host cannot log in", "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	l.log.Debug("login configured", "type", report.AuthType, "changed", len(report.Changed))
	return nil
}

// Register makes the launchers of remote applications.
func (l login) Register(_ context.Context, root rootdir.Root, values step.Values) error {
	dir, err := os.OpenRoot(string(root))
	if err != nil {
		return err
	}
	defer dir.Close()
	report, err := remoteapps.Register(dir, remoteapps.FromVariables(func(name string) string { return values[name] }))
	for _, text := range report.Remarks {
		l.log.Warn("remote applications", "remark", text)
	}
	if err != nil {
		return fmt.Errorf("remote applications: %w", err)
	}
	return nil
}
