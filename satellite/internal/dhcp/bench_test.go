package dhcp

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/state"
)

// bigSubnet has room for a million clients.
func bigSubnet() Settings {
	return Settings{Subnets: []Subnet{{
		Name: "big", Prefix: netip.MustParsePrefix("10.0.0.0/11"), Mode: Authoritative,
		RangeStart: netip.MustParseAddr("10.0.1.0"), RangeEnd: netip.MustParseAddr("10.16.0.255"),
	}}}
}

// benchWire hands each reply to the worker whose number is in the client's MAC.
type benchWire struct{ replies []chan []byte }

func (w benchWire) send(_ uint16, _ destination, msg []byte) error {
	w.replies[binary.BigEndian.Uint16(msg[29:])] <- msg
	return nil
}

func (w benchWire) probe(netip.Addr, lease.MAC) (bool, error) { return false, nil }

// BenchmarkDORA takes new PCs from DISCOVER to a durable lease, through everything but the sockets, with a bbolt database on
// disk. ns/op is per exchange; flushes/op shows how many share one.
func BenchmarkDORA(b *testing.B) {
	for _, outstanding := range []int{1, 32, 200} {
		b.Run(fmt.Sprintf("outstanding=%d", outstanding), func(b *testing.B) { benchDORA(b, outstanding) })
	}
}

// countingLog counts transactions.
type countingLog struct {
	lease.Log
	n atomic.Int64
}

func (l *countingLog) Append(ctx context.Context, rs []lease.Record) error {
	l.n.Add(1)
	return l.Log.Append(ctx, rs)
}

func benchDORA(b *testing.B, outstanding int) {
	db, err := state.Open(filepath.Join(b.TempDir(), state.FileName))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	stored, err := state.NewLeases(db.DB())
	if err != nil {
		b.Fatal(err)
	}
	log := &countingLog{Log: stored}
	s, err := New(Config{Settings: bigSubnet(), Log: log})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	defer running.Wait()
	defer cancel()

	w := benchWire{make([]chan []byte, outstanding)}
	socket := make(chan []byte, outstanding) // one goroutine per socket, as in the server
	running.Go(func() {
		for data := range socket {
			eth0 := Interface{Name: "eth0", Index: 2, Addr: netip.MustParsePrefix("10.0.0.1/11")}
			s.receive(w, data, datagram{port: serverPort, in: eth0, at: time.Now()})
		}
	})
	defer close(socket)
	for i := range w.replies {
		w.replies[i] = make(chan []byte, 4)
	}
	var next atomic.Int64
	var workers sync.WaitGroup
	b.ResetTimer()
	for i := range outstanding {
		workers.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				exchange(uint16(i), uint32(n), socket, w.replies[i])
			}
		})
	}
	workers.Wait()
	b.StopTimer()
	b.ReportMetric(float64(log.n.Load())/float64(b.N), "flushes/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "DORA/s")
}

// exchange is one client's way to an address. Its packets are made by hand, so that the benchmark measures the server.
func exchange(worker uint16, n uint32, socket chan<- []byte, replies <-chan []byte) {
	m := bootRequest(worker, n)
	socket <- append(m, 53, 1, byte(dhcpv4.MessageTypeDiscover), 255)
	offer := <-replies
	req := append(bootRequest(worker, n), 53, 1, byte(dhcpv4.MessageTypeRequest), 50, 4)
	req = append(req, offer[16:20]...)
	req = append(req, 54, 4, 10, 0, 0, 1, 255)
	socket <- req
	<-replies
}

// bootRequest is the header of a client's message; worker and n are its MAC address.
func bootRequest(worker uint16, n uint32) []byte {
	b := make([]byte, 240, 300)
	b[0], b[1], b[2] = 1, 1, 6
	binary.BigEndian.PutUint32(b[4:], n)
	b[28] = 2
	binary.BigEndian.PutUint16(b[29:], worker)
	b[31] = byte(n >> 16)
	binary.BigEndian.PutUint16(b[32:], uint16(n))
	copy(b[236:], "\x63\x82\x53\x63")
	return b
}
