package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

// lister fetches a list and turns it into a view.
type lister func(ctx context.Context, conn *grpc.ClientConn) (printer.View, error)

// listCommand makes a "list" command with --watch. kinds are the objects whose changes matter.
func (a *app) listCommand(short string, kinds []string, flags func(*cobra.Command), list lister) *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   short,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return a.watch(cmd.Context(), kinds, list)
			}
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				return a.show(ctx, conn, list)
			})
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on and show the list again after each change")
	if flags != nil {
		flags(c)
	}
	return c
}

func (a *app) show(ctx context.Context, conn *grpc.ClientConn, list lister) error {
	view, err := list(ctx, conn)
	if err != nil {
		return err
	}
	return a.print(view)
}

// watch shows the list now and after each change until ctx ends.
func (a *app) watch(ctx context.Context, kinds []string, list lister) error {
	return a.stream(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		events, err := adminv1.NewServerServiceClient(conn).Watch(ctx, &adminv1.WatchRequest{Kinds: kinds})
		if err != nil {
			return err
		}
		for {
			a.clearScreen()
			if err := a.show(ctx, conn, list); err != nil {
				return err
			}
			if _, err := events.Recv(); err != nil {
				if errors.Is(err, io.EOF) {
					return errors.New("the controller ended the watch")
				}
				return err
			}
		}
	})
}

// clearScreen homes the cursor on a terminal; in a pipe the tables follow one another.
func (a *app) clearScreen() {
	f, ok := a.stdout.(*os.File)
	if !ok || a.output != string(printer.Table) {
		return
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
		fmt.Fprint(a.stdout, "\x1b[H\x1b[2J")
	}
}
