package initrd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/uplink"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const (
	// rebootAfter is how long the message stays; ltsp.reboot=SECONDS changes it.
	rebootAfter = 60 * time.Second
	maxReboot   = time.Hour
	// failureReport bounds telling satellites, all of them together.
	failureReport = 15 * time.Second
)

// giveUp tells what went wrong to whom it may concern, offers a shell if policy has allowed it, and reboots.
func (b *boot) giveUp(ctx context.Context, f *failure) {
	defer func() {
		if v := recover(); v != nil { // even now process 1 must not end
			fmt.Fprintf(os.Stdout, "ltsp-agent: internal error: %v\n", v)
		}
		reboot()
	}()
	explain(os.Stdout, f)
	b.report(ctx, f)
	shell := b.findShell(b.wantsShell(f))
	if shell != nil {
		fmt.Fprintln(os.Stdout, "ltsp-agent: press Enter for a shell")
	}
	if countdown(os.Stdout, rebootWait(b.args.Get("ltsp.reboot")), enter(shell != nil)) {
		b.runShell(shell)
	}
}

// explain is what somebody in front of the PC reads. The first line is for machines too.
func explain(w io.Writer, f *failure) {
	fmt.Fprintf(w, "\nltsp-agent: boot failed stage=%s\n\n    what happened:  %v\n    what to do:     %s\n\n", f.stage, f.err, f.advice)
}

// report tells the first satellite that listens.
func (b *boot) report(ctx context.Context, f *failure) {
	if b.cfg == nil || !b.online {
		return
	}
	cfg, err := uplink.TLSConfig(b.cfg.TrustAnchor, b.cfg.Site)
	if err != nil {
		b.log.Warn("failure not reported", "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, failureReport)
	defer cancel()
	var errs []error
	for _, sat := range b.cfg.Satellites {
		err := func() error {
			s, err := uplink.Dial(ctx, sat, cfg, b.hello(), nil)
			if err != nil {
				return err
			}
			defer s.Close()
			_, err = s.Send(ctx, agentproto.Message{Failure: f.message()})
			return err
		}()
		if err == nil {
			b.log.Info("the satellite has been told", "satellite", sat.Addr)
			return
		}
		errs = append(errs, err)
	}
	b.log.Warn("failure not reported", "err", errors.Join(errs...))
}

// rebootWait reads ltsp.reboot=.
func rebootWait(text string, ok bool) time.Duration {
	if !ok {
		return rebootAfter
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return rebootAfter
	}
	return min(time.Duration(n)*time.Second, maxReboot)
}

// countdown waits, tells the time that is left every ten seconds, and returns true as soon as pressed is closed.
func countdown(w io.Writer, left time.Duration, pressed <-chan struct{}) bool {
	for left > 0 {
		fmt.Fprintf(w, "ltsp-agent: the PC restarts in %v\n", left)
		step := left % (10 * time.Second)
		if step == 0 {
			step = 10 * time.Second
		}
		timer := time.NewTimer(step)
		select {
		case <-pressed:
			timer.Stop()
			return true
		case <-timer.C:
			left -= step
		}
	}
	return false
}

// enter is closed when a line is typed on the console; without a shell to offer nobody listens.
func enter(listen bool) <-chan struct{} {
	pressed := make(chan struct{})
	if listen {
		go func() { // lives until the reboot
			var b [1]byte
			if n, err := os.Stdin.Read(b[:]); n > 0 && err == nil {
				close(pressed)
			}
		}()
	}
	return pressed
}

// shellCommand is a shell and the root directory that it needs.
type shellCommand struct {
	root string // empty: the initrd
	argv []string
}

// findShell returns nil if neither the boot configuration nor wanted allows one, or there is none.
func (b *boot) findShell(wanted bool) *shellCommand {
	if !wanted && (b.cfg == nil || !b.cfg.Shell) {
		return nil
	}
	candidates := []shellCommand{
		{"", []string{"/bin/sh"}}, {"", []string{"/bin/busybox", "sh"}},
		{newRoot, []string{"/bin/bash"}}, {newRoot, []string{"/bin/sh"}},
	}
	for _, c := range candidates {
		if _, err := os.Stat(c.root + c.argv[0]); err == nil {
			return &c
		}
	}
	return nil
}

// runShell gives the console to a shell and waits for its end.
func (b *boot) runShell(c *shellCommand) {
	p, err := os.StartProcess(c.argv[0], c.argv, &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=linux", "HOME=/"},
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0, Chroot: c.root},
	})
	if err != nil {
		b.log.Error("shell does not start", "err", err)
		countdown(os.Stdout, rebootAfter, nil)
		return
	}
	if _, err := p.Wait(); err != nil {
		b.log.Error("shell", "err", err)
	}
}

// reboot restarts the PC. If the kernel does not do it, process 1 waits for the power switch.
func reboot() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Fprintf(os.Stdout, "ltsp-agent: restart the PC by hand: %v\n", err)
	}
	for {
		time.Sleep(time.Hour) // not an empty select: the runtime would take it for a deadlock and end the process
	}
}
