// Command ltspctl is the admin's tool: it builds and publishes images and steers the fleet through the controller.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
