package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/health"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/state"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/state/identity"
)

func newStatus() *cobra.Command {
	dir, output := config.Default().DataDir, "table"
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what is served and how far images are",
		Long:  `Show what is served and how far images are. Without a running satellite it shows what the disk says, and ends with an error.`,
		Args:  cobra.NoArgs,
	}
	c.Flags().StringVar(&dir, "data-dir", dir, "directory of the satellite's data")
	c.Flags().StringVarP(&output, "output", "o", output, "table or json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if output != "table" && output != "json" {
			return fmt.Errorf("output %q: want table or json", output)
		}
		s, err := health.Query(c.Context(), dir)
		if errors.Is(err, health.ErrNotRunning) {
			var diskErr error
			if s, diskErr = fromDisk(dir); diskErr != nil {
				return diskErr
			}
		} else if err != nil {
			return err
		}
		if output == "json" {
			e := json.NewEncoder(c.OutOrStdout())
			e.SetIndent("", "  ")
			return errors.Join(e.Encode(s), err)
		}
		return errors.Join(printStatus(c.OutOrStdout(), s), err)
	}
	return c
}

// fromDisk tells what can be known without a running satellite.
func fromDisk(dir string) (health.Status, error) {
	id, err := identity.Load(dir)
	if err != nil {
		return health.Status{}, err
	}
	s := health.Status{Site: id.Site(), Satellite: id.Name(), Controller: id.Controller(), CertificateExpires: id.Holder().Leaf().NotAfter,
		Problems: []string{"ltsp-satellite is not running"}}
	db, err := state.OpenReadOnly(filepath.Join(dir, state.FileName))
	if err != nil {
		return s, nil // it has never served
	}
	defer db.Close()
	d, err := db.Desired()
	if errors.Is(err, state.ErrNotFound) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	s.Revision = d.Revision
	for _, v := range d.Versions {
		s.Versions = append(s.Versions, health.Version{Image: v.Image, Number: v.Number, ID: v.ID.String(), Channels: v.Channels, State: "not running"})
	}
	for _, n := range d.Subnets {
		s.Subnets = append(s.Subnets, health.Subnet{Name: n.Name, CIDR: n.CIDR.String(), Mode: string(n.Mode), State: "not running"})
	}
	return s, nil
}

func printStatus(out io.Writer, s health.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	link := "not connected"
	if s.Connected {
		link = "connected"
	}
	fmt.Fprintf(w, "Satellite\t%s of site %s\n", s.Satellite, s.Site)
	fmt.Fprintf(w, "Controller\t%s, %s, revision %d\n", s.Controller, link, s.Revision)
	fmt.Fprintf(w, "Certificate\tuntil %s\n", s.CertificateExpires.UTC().Format(time.RFC3339))
	if s.DiskSizeBytes > 0 {
		fmt.Fprintf(w, "Disk\t%s free of %s\n", bytesText(s.DiskFreeBytes), bytesText(s.DiskSizeBytes))
		fmt.Fprintf(w, "Memory\t%s\n", bytesText(s.MemoryBytes))
		fmt.Fprintf(w, "Clients\t%s; %d NBD connections\n", clientsText(s.Clients), s.NBDConnections)
	}
	if p := s.Policy; p.Revision > 0 || p.Missing > 0 {
		fmt.Fprintf(w, "Policy\t%s\n", policyText(p))
	}
	if l := s.LoginHost; l.Address != "" {
		fmt.Fprintf(w, "Login host\t%s\n", loginText(l))
	}
	if s.LoginHost.PublicKey != "" {
		fmt.Fprintf(w, "Key\t%s\n", s.LoginHost.PublicKey)
	}
	if len(s.Versions) > 0 {
		fmt.Fprintf(w, "\nIMAGE\tVERSION\tCHANNELS\tSTATE\tBY\tDONE\tFETCHED\t\n")
	}
	for _, v := range s.Versions {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", v.Image, v.Number, dash(strings.Join(v.Channels, ",")), v.State, dash(v.Method), progress(v),
			bytesText(v.BytesFetched), strings.Join(slices.DeleteFunc([]string{v.Error, v.Behind}, func(s string) bool { return s == "" }), "; "))
	}
	if len(s.Subnets) > 0 {
		fmt.Fprintf(w, "\nSUBNET\tCIDR\tDHCP\tINTERFACE\tSTATE\tLEASES\n")
	}
	for _, n := range s.Subnets {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d of %d\n", n.Name, n.CIDR, n.Mode, dash(n.Interface), n.State, n.Leases, n.RangeSize)
	}
	if len(s.Members) > 0 {
		fmt.Fprintf(w, "\nPEER\tADDRESS\tSTATE\tVERSIONS\n")
	}
	for _, m := range s.Members {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", m.Name, m.Address, m.State, len(m.Versions))
	}
	for _, p := range s.Problems {
		fmt.Fprintf(w, "\nPROBLEM\t%s", p)
	}
	if len(s.Problems) > 0 {
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func policyText(p health.Policy) string {
	text := "none is in force"
	if p.Revision > 0 {
		text = fmt.Sprintf("of revision %d, %d levels", p.Revision, p.Levels)
	}
	if p.Missing > 0 {
		text += fmt.Sprintf("; a newer one lacks %d archives", p.Missing)
	}
	return text
}

func loginText(l health.LoginHost) string {
	text := l.Address + ", " + l.State
	if l.Error != "" {
		text += " (" + l.Error + ")"
	}
	if l.Updated.IsZero() {
		return text + ", no accounts yet"
	}
	return fmt.Sprintf("%s, %d users, last read %s", text, l.Users, l.Updated.UTC().Format(time.RFC3339))
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func progress(v health.Version) string {
	if v.BytesTotal == 0 {
		return "-"
	}
	return fmt.Sprintf("%d%% of %s", v.BytesDone*100/v.BytesTotal, bytesText(v.BytesTotal))
}

func bytesText(n uint64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	f, i := float64(n), 0
	for f >= 1000 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

func clientsText(byState map[string]int) string {
	var parts []string
	for state, n := range byState {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
