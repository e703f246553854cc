package testvm

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	guestBacklog = 256      // reads that a slow person may lag behind before being disconnected
	recentBytes  = 16 << 10 // shown to a person who connects
	maxGuests    = 8
	farewell     = 2 * time.Second // for the last words to a person when the machine has ended
)

// guest is a connection to the console socket.
type guest struct {
	conn net.Conn
	out  chan []byte
}

// keyboard types what is written to it.
type keyboard struct{ vm *VM }

func (k keyboard) Write(data []byte) (int, error) {
	if err := k.vm.Send(string(data)); err != nil {
		return 0, err
	}
	return len(data), nil
}

// ConsoleSocket is the path of a unix socket on which a person sees and types on the console, for example with
// `socat -,raw,echo=0 UNIX-CONNECT:PATH` or Attach. It vanishes with the machine.
func (vm *VM) ConsoleSocket() string { return vm.socket.Addr().String() }

// listenConsole replaces the socket that an ended machine of the same name may have left.
func listenConsole(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("console socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("console socket: %w", err)
	}
	return listener, nil
}

// welcome accepts people until the socket is closed; work counts their goroutines.
func (vm *VM) welcome(work *sync.WaitGroup) {
	for {
		conn, err := vm.socket.Accept()
		if err != nil {
			return
		}
		g := &guest{conn: conn, out: make(chan []byte, guestBacklog)}
		if !vm.admit(g) {
			conn.Close()
			continue
		}
		work.Go(func() { // screen
			for data := range g.out {
				if _, err := conn.Write(data); err != nil {
					break
				}
			}
			conn.Close()
		})
		work.Go(func() { // keyboard
			_, _ = io.Copy(keyboard{vm}, conn)
			vm.leave(g)
		})
	}
}

// admit adds g, unless the machine has ended or there are too many, and gives it the recent past.
func (vm *VM) admit(g *guest) bool {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.guests == nil || len(vm.guests) >= maxGuests {
		return false
	}
	vm.guests[g] = true
	g.out <- append([]byte(nil), vm.recent...)
	return true
}

// show gives raw output to everybody; who lags behind too far is disconnected, for the machine must not wait.
func (vm *VM) show(raw []byte) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.recent = append(vm.recent, raw...)
	if len(vm.recent) > 2*recentBytes {
		vm.recent = append([]byte(nil), vm.recent[len(vm.recent)-recentBytes:]...)
	}
	if len(vm.guests) == 0 {
		return
	}
	copied := append([]byte(nil), raw...)
	for g := range vm.guests {
		select {
		case g.out <- copied:
		default:
			vm.removeLocked(g)
			g.conn.Close()
		}
	}
}

func (vm *VM) leave(g *guest) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.removeLocked(g)
}

func (vm *VM) removeLocked(g *guest) {
	if vm.guests[g] {
		delete(vm.guests, g)
		close(g.out)
	}
}

// dismiss ends all connections after what was shown to them has been written; keyboards stop at once.
func (vm *VM) dismiss() {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	for g := range vm.guests {
		vm.removeLocked(g)
		_ = g.conn.SetWriteDeadline(time.Now().Add(farewell))
		if unix, ok := g.conn.(*net.UnixConn); ok {
			_ = unix.CloseRead()
		}
	}
	vm.guests = nil
}
