package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/ltsp-fleet/ltsp-fleet/internal/buildinfo"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manpages"
	"github.com/ltsp-fleet/ltsp-fleet/internal/telemetry"
	"github.com/ltsp-fleet/ltsp-fleet/satellite"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/health"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/state/identity"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream"
)

// newRoot makes the command tree.
func newRoot(out, log io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:           "ltsp-satellite",
		Short:         "Boot the PCs of a site from images that a controller hands out",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(out)
	root.AddCommand(newJoin(), newServe(log), newStatus(), newLogin(), newVersion(), manpages.Command("8"))
	return root
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the program's version", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), buildinfo.Version())
			return err
		},
	}
}

func newJoin() *cobra.Command {
	j := upstream.Join{}
	c := &cobra.Command{
		Use:   "join --controller HOST:7400 --token TOKEN",
		Short: "Join a site with a token that ltspctl token create printed",
		Long: `Join a site: prove that the controller is the one that the token names, exchange the token for a certificate,
and store it. A token is good for one satellite. Then run "ltsp-satellite serve".`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&j.Controller, "controller", "", "address of the controller, HOST:PORT")
	f.StringVar(&j.Token, "token", "", "join token")
	f.StringVar(&j.Name, "name", "", "name of this satellite (default: the host name)")
	f.StringVar(&j.DataDir, "data-dir", config.Default().DataDir, "directory of the satellite's data")
	f.BoolVar(&j.Force, "force", false, "replace the identity of a satellite that has joined already")
	f.DurationVar(&j.Timeout, "timeout", 30*time.Second, "how long to wait for the controller")
	for _, name := range []string{"controller", "token"} {
		if err := c.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined above
		}
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		dir, err := filepath.Abs(j.DataDir)
		if err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
		j.DataDir = dir
		if _, err := health.Query(c.Context(), dir); err == nil {
			return fmt.Errorf("ltsp-satellite serves from %s: stop it first", dir)
		}
		record, err := j.Run(c.Context())
		if errors.Is(err, identity.ErrJoined) {
			return fmt.Errorf("%w; use --force to replace its identity", err)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "Joined site %s as satellite %s. Start it with: ltsp-satellite serve --data-dir %s\n", record.Site, record.Name, dir)
		return err
	}
	return c
}

// serving is the memory for all else than deltas.
const serving = 128 << 20

func newServe(log io.Writer) *cobra.Command {
	local := config.Default()
	var level, format string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the site until a signal ends it",
		Args:  cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&local.DataDir, "data-dir", local.DataDir, "directory of the satellite's data")
	f.StringArrayVar(&local.Interfaces, "interface", nil, "network interface to serve; repeatable (default: every interface with an address in a subnet of the site)")
	f.StringVar(&local.Metrics, "metrics", local.Metrics, "address of /metrics; empty: none")
	f.Uint16Var(&local.NBDPort, "nbd-port", local.NBDPort, "TCP port of the network block devices")
	f.Uint16Var(&local.HTTPPort, "http-port", local.HTTPPort, "TCP port of boot scripts, kernels and initrds")
	f.Uint16Var(&local.ReportPort, "report-port", local.ReportPort, "TCP port of the clients' reports")
	f.Uint16Var(&local.GossipPort, "gossip-port", local.GossipPort, "TCP and UDP port between the satellites of the site")
	f.IntVar(&local.Streams, "streams", local.Streams, "chunk requests at once")
	f.IntVar(&local.Retain, "retain", local.Retain, "former versions of each image that stay for a rollback, if there is room")
	f.Int64Var(&local.DeltaMemoryBytes, "delta-memory-bytes", local.DeltaMemoryBytes, "memory that decoding a delta takes at most")
	f.Uint64Var(&local.ReserveBytes, "reserve-bytes", local.ReserveBytes, "space that images never fill")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&format, "log-format", "text", "text or json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		dir, err := filepath.Abs(local.DataDir)
		if err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
		local.DataDir = dir
		logger, err := telemetry.NewLogger(log, level, format)
		if err != nil {
			return err
		}
		debug.SetMemoryLimit(delta.HeapLimit(local.DeltaMemoryBytes) + serving)
		s, err := satellite.New(satellite.Config{Local: local, Build: buildinfo.Version(), Logger: logger, Registry: telemetry.NewRegistry()})
		if err != nil {
			return err
		}
		return s.Run(c.Context())
	}
	return c
}
