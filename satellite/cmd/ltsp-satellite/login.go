package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ltsp-fleet/ltsp-fleet/internal/accountfeed"
)

// newLogin helps to set up a login host that lets satellites do nothing but read accounts.
func newLogin() *cobra.Command {
	return &cobra.Command{
		Use:   "accounts-script",
		Short: "Print the program that a login host may force on satellites",
		Long: `Print the program that shows a satellite the accounts of a login host. Store it there, for example as
/usr/local/bin/ltsp-accounts, and put before the satellite's key in authorized_keys:

    restrict,command="/usr/local/bin/ltsp-accounts" ssh-ed25519 ...

Then the key can do nothing else. Without that the satellite brings the program along.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(c.OutOrStdout(), "#!/bin/sh\n%s\n", accountfeed.Script())
			return err
		},
	}
}
