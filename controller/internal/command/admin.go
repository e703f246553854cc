package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ltsp-fleet/ltsp-fleet/controller"
)

func (o *options) adminCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Make or revoke admin credentials while the controller is stopped",
		Long: "admin is the way back in when the last admin credential is lost, and the way to end one. As long as an admin can reach the\n" +
			"controller, new admins enrol with a join token instead (ltspctl token create --role admin).",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(o.addAdminCommand(), o.revokeAdminCommand())
	return cmd
}

func (o *options) addAdminCommand() *cobra.Command {
	cfg := controller.AdminConfig{}
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a credential for a new or known admin",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg.DataDir, cfg.Name = o.dataDir, args[0]
			made, err := controller.AddAdmin(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Admin context of %s: %s\n", cfg.Name, made.AdminContext)
			return err
		},
	}
	cmd.Flags().StringVar(&cfg.Context, "admin-context", "", "contexts file to write")
	cmd.Flags().StringVar(&cfg.Address, "address", "", "HOST or HOST:PORT of the controller (default: this host's name, port 7400)")
	if err := cmd.MarkFlagRequired("admin-context"); err != nil {
		panic(err) // the flag is defined two lines above
	}
	return cmd
}

func (o *options) revokeAdminCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME",
		Short: "End all credentials of an admin for good",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return controller.RevokeAdmin(cmd.Context(), controller.AdminConfig{DataDir: o.dataDir, Name: args[0]})
		},
	}
}
