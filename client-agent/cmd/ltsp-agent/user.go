package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/login"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginhost"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/onesession"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/remoteapps"
)

// runForUser is the agent as what a login or a user starts: PAM's program, ssh's askpass, a launcher, a session's wrapper. ok is false if it is none of these.
func runForUser(args []string, stdout, stderr io.Writer) (code int, ok bool) {
	// PAM's program is never taken for askpass, whose exit code 0 would let in whoever put a word into PAM's environment.
	if len(args) == 2 && os.Getenv(loginhost.AskpassEnv) != "" {
		return exit(loginhost.Askpass(os.Stdin, stdout), stderr), true
	}
	if len(args) < 3 || !slices.Contains([]string{"pam", "remoteapp", "session"}, args[1]) {
		return 0, false
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	switch args[1] {
	case "pam":
		return login.Main(ctx, args[2:], os.Stdin, stdout), true
	case "session":
		return onesession.Main(ctx, args[2:]), true
	}
	return remoteapps.Main(ctx, args[2], args[3:]), true
}
