// Package command is the controller's command line: the only importer of cobra. It turns flags into configurations and does nothing else.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/ltsp-fleet/ltsp-fleet/controller"
	"github.com/ltsp-fleet/ltsp-fleet/internal/buildinfo"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manpages"
	"github.com/ltsp-fleet/ltsp-fleet/internal/telemetry"
)

// options are the flags of all commands.
type options struct {
	dataDir   string
	listen    string
	metrics   string
	logLevel  string
	logFormat string
	deltaGiB  int64
	deltaMiB  int64
	init      controller.InitConfig
}

// New returns the root command. Logs go to stderr of the command.
func New() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:           "ltsp-controller",
		Short:         "Central daemon of LTSP Fleet: images, sites, identities",
		Long:          "ltsp-controller keeps images and their versions, sites and their satellites, and tells each satellite what its site needs.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&o.dataDir, "data-dir", controller.DefaultDataDir, "directory for keys, metadata and chunks")
	flags.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&o.logFormat, "log-format", "text", "text or json")
	root.AddCommand(o.initCommand(), o.serveCommand(), o.adminCommand(), versionCommand(), manpages.Command("8"))
	return root
}

func (o *options) logger(w io.Writer) (*slog.Logger, error) {
	return telemetry.NewLogger(w, o.logLevel, o.logFormat)
}

func (o *options) initCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the CA, the keys, the database and the first admin credential",
		Long: "init makes the data directory: a CA, the key that signs manifests, the controller's certificate, the database, and a contexts\n" +
			"file with the first admin's credential for ltspctl. It never overwrites an initialised directory. If it is interrupted, run it again.",
		Example: "  ltsp-controller init --address controller.example.org --admin-context ~/.config/ltspctl/contexts.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.init.DataDir = o.dataDir
			made, err := controller.Init(cmd.Context(), o.init)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Initialised %s.\nController:      %s\nAdmin context:   %s\nCA fingerprint:  %s\nNow run: ltsp-controller serve\n",
				o.dataDir, made.Controller, made.AdminContext, made.Fingerprint)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.init.Address, "address", "", "HOST or HOST:PORT under which admins and satellites reach the controller (default: this host's name, port 7400)")
	flags.StringVar(&o.init.AdminContext, "admin-context", "", "contexts file for the first admin's credential (default: DATA-DIR/admin.yaml)")
	flags.StringVar(&o.init.AdminName, "admin-name", "admin", "name of the first admin")
	return cmd
}

// serving is the memory for all else than deltas: publishing, thousands of satellites' streams.
const serving = 256 << 20

func (o *options) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve admins and satellites until SIGTERM or SIGINT",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := o.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if o.deltaGiB < 1 || o.deltaGiB > 1<<20 || o.deltaMiB < 64 || o.deltaMiB > 1<<20 {
				return fmt.Errorf("--delta-space %d, --delta-memory %d: want 1 GiB to 1 PiB and 64 MiB to 1 TiB", o.deltaGiB, o.deltaMiB)
			}
			debug.SetMemoryLimit(delta.HeapLimit(o.deltaMiB<<20) + serving)
			c, err := controller.New(cmd.Context(), controller.Config{
				DataDir: o.dataDir, Listen: o.listen, Metrics: o.metrics, DeltaBytes: o.deltaGiB << 30, DeltaMemory: o.deltaMiB << 20, Log: log,
			})
			if err != nil {
				return err
			}
			if err := c.Run(cmd.Context()); err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.listen, "listen", controller.DefaultListen, "address of the API (gRPC, TLS)")
	flags.StringVar(&o.metrics, "metrics", controller.DefaultMetrics, "address of /metrics; empty for none")
	flags.Int64Var(&o.deltaGiB, "delta-space", controller.DefaultDeltaBytes>>30, "GiB that deltas between versions may take; those used longest ago go first")
	flags.Int64Var(&o.deltaMiB, "delta-memory", controller.DefaultDeltaMemory>>20, "MiB of memory for making a delta")
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "ltsp-controller", buildinfo.Version())
			return err
		},
	}
}
