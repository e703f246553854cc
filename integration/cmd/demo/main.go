// Command demo runs the main job on one machine: a virtual PC netboots a real Debian image through a controller and a satellite.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
)

type options struct {
	bin, cache, dir string
	keep, bench     bool
	timeout         time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", ".build/bin", "directory of the four binaries")
	flag.StringVar(&o.cache, "cache", ".build/cache", "directory that keeps images between runs")
	flag.StringVar(&o.dir, "dir", "", "working directory (default: a new one, removed at the end)")
	flag.BoolVar(&o.keep, "keep", false, "leave everything running until Ctrl-C")
	flag.BoolVar(&o.bench, "bench", false, "print figures of the boot: time, bytes, memory")
	flag.DurationVar(&o.timeout, "timeout", 20*time.Minute, "give up after this time (not while -keep waits)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	began := time.Now()
	log := func(format string, args ...any) {
		fmt.Printf("%6.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	dir, cleanup, err := workDir(o)
	if err != nil {
		return err
	}
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return err
	}
	cache, err := filepath.Abs(o.cache)
	if err != nil {
		return err
	}
	s, err := school.New(ctx, school.Config{Bin: bin, Cache: cache, Dir: dir, Prefix: "demo", Log: log})
	if err != nil {
		return err
	}
	defer func() {
		closeErr := s.Close()
		if err != nil {
			fmt.Fprintf(os.Stderr, "demo: logs, console and packet capture are in %s\n", dir)
			return
		}
		cleanup()
		err = closeErr
	}()
	return show(ctx, s, o, log)
}

// workDir returns the working directory and what removes it after a success.
func workDir(o options) (string, func(), error) {
	if o.dir != "" {
		dir, err := filepath.Abs(o.dir)
		return dir, func() {}, err
	}
	dir, err := os.MkdirTemp("", "ltsp-demo-")
	return dir, func() { _ = os.RemoveAll(dir) }, err
}

func show(ctx context.Context, s *school.School, o options, log func(string, ...any)) error {
	limited, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	capture, err := s.LAN.Capture(ctx, filepath.Join(s.Dir, "lan.pcap"))
	if err != nil {
		return err
	}
	defer capture.Stop()
	if err := s.Open(limited, school.Opening{}); err != nil {
		return err
	}
	log("pc01: power on; firmware is SeaBIOS with a stock iPXE ROM")
	before := s.Sent("sat1")
	vm, err := s.PC(testvm.Machine{Name: "pc01"})
	if err != nil {
		return err
	}
	client, err := s.AwaitHealthyWatching(limited, vm, "52:54:00:67:00:11", log)
	if err != nil {
		return fmt.Errorf("%w\nlast lines of its console:\n%s", err, vm.Tail(30))
	}
	log("pc01: healthy as %s, root file system from %s", client.Report.Hostname, client.Report.Satellite)
	if err := printLists(limited, s); err != nil {
		return err
	}
	if err := update(limited, s, log); err != nil {
		return err
	}
	if o.bench {
		if err := s.PrintFigures(os.Stdout, vm, before); err != nil {
			return err
		}
	}
	if o.keep {
		return stay(ctx, s, vm)
	}
	return nil
}

// application is how many bytes the update brings that are like nothing before.
const application = 2 << 20

// update publishes the next version as a delta from the first, and shows how it came to the satellite.
func update(ctx context.Context, s *school.School, log func(string, ...any)) error {
	base, err := s.Image(ctx)
	if err != nil {
		return err
	}
	file, err := s.Update(ctx, application)
	if err != nil {
		return err
	}
	log("image %s: publishing an update, as a delta from version 1", school.ImageName)
	if err := s.PublishUpdate(ctx, file, base); err != nil {
		return err
	}
	log("satellite sat1: waiting until it has the update verified")
	if err := s.AwaitVerified(ctx, "sat1", 2); err != nil {
		return err
	}
	return printCtl(ctx, s, "image", "sync-plan", school.ImageName+"@2")
}

// printLists shows what the admin sees.
func printLists(ctx context.Context, s *school.School) error {
	for _, args := range [][]string{{"satellite", "list"}, {"image", "list"}, {"client", "list"}, {"client", "show", "52:54:00:67:00:11"}} {
		if err := printCtl(ctx, s, args...); err != nil {
			return err
		}
	}
	return nil
}

// printCtl runs ltspctl and shows what it prints.
func printCtl(ctx context.Context, s *school.School, args ...string) error {
	out, err := s.Ctl(ctx, args...)
	if err != nil {
		return err
	}
	fmt.Printf("\n$ ltspctl %s\n%s", strings.Join(args, " "), out)
	return nil
}

// stay keeps the fleet until Ctrl-C and tells how to use it.
func stay(ctx context.Context, s *school.School, vm *testvm.VM) error {
	fmt.Printf(`
Everything goes on running until you press Ctrl-C. In another terminal, as root:

  the admin's desk       alias ltspctl="ip netns exec %[1]s-desk %[2]s/ltspctl --contexts %[3]s"
                         ltspctl client list --watch
  the console of pc01    go run ./integration/cmd/console %[4]s     (Ctrl-] leaves it)
  inside the satellite   ip netns exec %[1]s-sat1 curl -s http://192.168.67.1/boot.ipxe?mac=52:54:00:67:00:11
                         ip netns exec %[1]s-sat1 nbdinfo --list nbd://192.168.67.1
  logs and capture       %[5]s
`, s.Lab.Label(), s.Bin, s.Contexts(), vm.ConsoleSocket(), s.Dir)
	<-ctx.Done()
	return nil
}
