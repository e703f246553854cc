package command

import "github.com/spf13/cobra"

func (a *app) policy() *cobra.Command {
	return group("policy", "Say what clients do: ltsp.conf and the files of /etc/ltsp", policyEvalFile(a), policyLintFile(a))
}
