package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/login"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginhost"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/remoteapps"
)

// runForUser is the agent as what a login or a user starts: PAM's program, ssh's askpass, a launcher. ok is false if it is none of these.
func runForUser(args []string, stdout, stderr io.Writer) (code int, ok bool) {
	// PAM's program is never taken for askpass, whose exit code 0 would let in whoever put a word into PAM's environment.
	if len(args) == 2 && os.Getenv(loginhost.AskpassEnv) != "" {
		return exit(loginhost.Askpass(os.Stdin, stdout), stderr), true
	}
	if len(args) < 3 || args[1] != "pam" && args[1] != "remoteapp" {
		return 0, false
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if args[1] == "pam" {
		return login.Main(ctx, args[2:], os.Stdin, stdout), true
	}
	return remoteapps.Main(ctx, args[2], args[3:]), true
}
