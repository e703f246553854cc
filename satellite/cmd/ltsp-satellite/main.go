// Command ltsp-satellite boots the PCs of a site: DHCP, TFTP, HTTP, NBD and reports, from images that it keeps in step with the controller.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := newRoot(os.Stdout, os.Stderr).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ltsp-satellite:", err)
		os.Exit(1)
	}
}
