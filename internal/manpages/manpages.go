// Package manpages gives each of the project's command lines a hidden command that writes its man pages, for packagers. The pages come
// from the commands themselves and carry no date, so that the same source gives the same bytes.
package manpages

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Command returns "man DIR". section is "1" for what people run and "8" for daemons.
func Command(section string) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write man pages into DIR",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			root.DisableAutoGenTag = true
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("man pages: %w", err)
			}
			epoch := time.Unix(0, 0).UTC()
			header := &doc.GenManHeader{Title: strings.ToUpper(root.Name()), Section: section, Source: "LTSP Fleet", Manual: "LTSP Fleet", Date: &epoch}
			return doc.GenManTree(root, header, args[0])
		},
	}
}
