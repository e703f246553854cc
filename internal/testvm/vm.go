package testvm

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet/proc"
)

const (
	sendTimeout = 10 * time.Second
	// bannerPrompt is what iPXE shows while it waits for Ctrl-B; any other key makes it go on.
	bannerPrompt = "B for the iPXE command line"
)

// VM is a machine that was switched on. Methods are safe for concurrent use; of Expect only one should wait at a time.
type VM struct {
	Machine Machine // as started, defaults filled in

	process *proc.Process
	console *console
	input   *os.File
	socket  *net.UnixListener
	ended   chan struct{} // closed when the console is complete and everything is released

	mu     sync.Mutex
	guests map[*guest]bool // people at the console socket; nil once the machine has ended
	recent []byte          // end of the raw stream, shown to a person who connects
	prompt []byte          // end of the readable stream, to find bannerPrompt across reads
}

// start does what can fail before and while QEMU starts, and leaves nothing behind when it fails.
func (r *Rack) start(ctx context.Context, m Machine) (*VM, error) {
	if m.ConsoleLog == "" {
		m.ConsoleLog = filepath.Join(r.config.Dir, m.Name+".console")
	}
	vars, err := m.copyVars(r.runDir)
	if err != nil {
		return nil, err
	}
	raw, timed, err := openLogs(m.ConsoleLog)
	if err != nil {
		return nil, err
	}
	socket, err := listenConsole(filepath.Join(r.config.SocketDir, m.Name+".sock"))
	if err != nil {
		raw.Close()
		timed.Close()
		return nil, err
	}
	vm := &VM{Machine: m, socket: socket, ended: make(chan struct{}), guests: map[*guest]bool{}}
	output, err := vm.spawn(ctx, r, vars)
	if err != nil {
		raw.Close()
		timed.Close()
		_ = socket.Close()
		return nil, err
	}
	begin := time.Now()
	vm.console = newConsole(raw, timed, func() time.Duration { return time.Since(begin) })
	if m.SkipBanner {
		vm.console.onText = vm.pressKey
	}
	var people sync.WaitGroup
	people.Go(func() { vm.welcome(&people) })
	go func() {
		defer close(vm.ended)
		defer r.release(m.Name)
		vm.read(output)
		<-vm.process.Done()
		_ = vm.socket.Close()
		vm.dismiss()
		people.Wait()
		vm.input.Close()
		raw.Close()
		timed.Close()
		r.config.Log("%s: ended after %.1f s of CPU", m.Name, vm.process.CPU().Seconds())
	}()
	return vm, nil
}

// spawn starts QEMU and returns the reading end of its console.
func (vm *VM) spawn(ctx context.Context, r *Rack, vars string) (*os.File, error) {
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	defer inRead.Close()
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		inWrite.Close()
		return nil, fmt.Errorf("console: %w", err)
	}
	defer outWrite.Close()
	spec := proc.Spec{
		Path: qemuProgram, Args: vm.Machine.arguments(r.accel, vars), Stdin: inRead, Stdout: outWrite,
		LogFile: filepath.Join(r.config.Dir, vm.Machine.Name+".qemu"),
	}
	if vm.Machine.Tap != nil {
		spec.Namespace = vm.Machine.Tap.Namespace()
	}
	if vm.process, err = r.spawner.Start(ctx, spec); err != nil {
		inWrite.Close()
		outRead.Close()
		return nil, err
	}
	vm.input = inWrite
	return outRead, nil
}

// read moves the console stream until QEMU closes it.
func (vm *VM) read(output *os.File) {
	defer output.Close()
	defer vm.console.end()
	chunk := make([]byte, 16<<10)
	for {
		n, err := output.Read(chunk)
		if n > 0 {
			vm.console.write(chunk[:n])
			vm.show(chunk[:n])
		}
		if err != nil {
			return
		}
	}
}

// pressKey ends iPXE's wait when its prompt has just been completed.
func (vm *VM) pressKey(text []byte) {
	vm.prompt = append(vm.prompt, text...)
	if at := bytes.LastIndex(vm.prompt, []byte(bannerPrompt)); at >= 0 {
		vm.prompt = append([]byte(nil), vm.prompt[at+len(bannerPrompt):]...)
		_ = vm.Send("\n") // a machine that is gone needs no key
	}
	if keep := len(bannerPrompt); len(vm.prompt) > keep {
		vm.prompt = append([]byte(nil), vm.prompt[len(vm.prompt)-keep:]...)
	}
}

// Expect waits until pattern (package regexp's syntax) matches the console behind the last match. Escape sequences and
// carriage returns are taken out before. The text is a stream: a pattern that can match less at the end of what has arrived
// should say what follows, `address (\S+)\n`. The error holds the end of the console; ErrEnded and ctx.Err() can be
// tested for.
func (vm *VM) Expect(ctx context.Context, pattern string) (Match, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return Match{}, fmt.Errorf("%s: %w", vm.Machine.Name, err)
	}
	match, err := vm.console.expect(ctx, re, vm.Machine.Fatal)
	if err != nil {
		return Match{}, fmt.Errorf("%s: wait for %q on the console: %w\n%s", vm.Machine.Name, pattern, err, vm.Tail(tailLines))
	}
	return match, nil
}

// Console returns everything readable that was printed so far; of more than 16 MiB the end.
func (vm *VM) Console() string { return vm.console.all() }

// Tail returns the last lines of the console that are not empty, for a failure report.
func (vm *VM) Tail(lines int) string { return vm.console.tail(lines) }

// Send types text on the console; a line ends with "\n".
func (vm *VM) Send(text string) error {
	if err := vm.input.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fmt.Errorf("%s: console: %w", vm.Machine.Name, err)
	}
	if _, err := vm.input.WriteString(text); err != nil {
		return fmt.Errorf("%s: console: %w", vm.Machine.Name, err)
	}
	return nil
}

// CPU returns the processor time that QEMU has used: exact after the end, in steps of 10 ms before.
func (vm *VM) CPU() time.Duration {
	used, err := vm.process.CPUTime()
	if err != nil {
		return 0 // between the end of the process and its reaping
	}
	return used
}

// Done is closed when the machine is off and its logs are complete.
func (vm *VM) Done() <-chan struct{} { return vm.ended }

// Wait blocks until the machine is off (nil when QEMU ended with status 0, as after a shutdown) or ctx is over.
func (vm *VM) Wait(ctx context.Context) error {
	select {
	case <-vm.ended:
		return vm.process.Wait(ctx)
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of %s: %w", vm.Machine.Name, ctx.Err())
	}
}

// Kill is a power cut: no network connection is closed. It waits until the machine is off.
func (vm *VM) Kill() error {
	if err := vm.process.Kill9(); err != nil {
		return fmt.Errorf("%s: %w", vm.Machine.Name, err)
	}
	<-vm.ended
	return nil
}
