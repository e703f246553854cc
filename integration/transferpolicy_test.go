//go:build component

package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
)

// TestTransferPolicy: what a site's policy says of its line holds.
func TestTransferPolicy(t *testing.T) {
	t.Parallel()
	d := newDelivery(t, "fadpol", school.Synthetic{Seed: 51, Bytes: megabyte, Ballast: 4 * megabyte, Fresh: 10 * megabyte})
	for _, method := range []string{"chunks", "whole", "delta"} {
		t.Run("transfer "+method, func(t *testing.T) { d.with(t).forced(method) })
	}
	t.Run("bandwidth", func(t *testing.T) { d.with(t).bandwidth() })
	t.Run("window closed before", func(t *testing.T) { d.with(t).closedBefore() })
	t.Run("window closed meanwhile", func(t *testing.T) { d.with(t).closedMeanwhile() })
	t.Run("complete only", func(t *testing.T) { d.with(t).completeOnly() })
}

func (d *delivery) policy(flags ...string) {
	d.t.Helper()
	d.must(d.Do(d.ctx(), append([]string{"site", "set", school.Site}, flags...)...))
}

func (d *delivery) forced(method string) {
	d.policy("--transfer", method)
	begin := down(d.line)()
	p := d.next()
	sync := d.complete(p)
	wire := uint64(down(d.line)() - begin)
	d.t.Logf("%s: %d bytes on the line", sync.Reason, wire)
	if sync.Method != method {
		d.t.Errorf("it came by %+v", sync)
	}
	const besides = 128 << 10
	if want := sync.Option(method); sync.Wire != want || wire < want || wire > want+want/20+besides {
		d.t.Errorf("%d bytes came over the line, %d were planned of %+v", wire, sync.Wire, sync.Options)
	}
	if method != "delta" && !strings.Contains(sync.Reason, "policy") {
		d.t.Errorf("the reason is %q", sync.Reason)
	}
}

// bandwidth looks at the line again and again: no span of time may have carried more than the cap allows.
func (d *delivery) bandwidth() {
	const rate, burst, besides = 1_000_000, 512 << 10, 256 << 10 // what the cap lets through at once; and what is no version
	d.policy("--bandwidth", "8Mbit")
	type sample struct {
		at    time.Time
		bytes int64
	}
	p := d.next()
	var samples []sample
	d.await("the version has come", func() bool {
		samples = append(samples, sample{time.Now(), down(d.line)()})
		return d.whole(p)
	})
	for i, from := range samples {
		for _, to := range samples[i+1:] {
			span := to.at.Sub(from.at)
			if got, most := to.bytes-from.bytes, int64(span.Seconds()*rate*1.1)+burst+besides; got > most {
				d.t.Fatalf("%d bytes came over the line in %v, want at most %d", got, span, most)
			}
		}
	}
	d.t.Logf("%d looks at the line; the version came within %v", len(samples), samples[len(samples)-1].at.Sub(samples[0].at))
	d.complete(p)
	d.policy("--bandwidth", "0")
}

// closedWindow is a time window that does not open within the test.
func closedWindow() string {
	now := time.Now()
	return now.Add(2*time.Hour).Format("15:04") + "-" + now.Add(3*time.Hour).Format("15:04")
}

// quiet waits until nothing but keepalives and reports has come over the line for a while, and returns the count then.
func (d *delivery) quiet() (bytes int64) {
	d.t.Helper()
	since := time.Now()
	bytes = down(d.line)()
	d.await("the line is quiet", func() bool {
		if now := down(d.line)(); now > bytes+2048 {
			bytes, since = now, time.Now()
		}
		return time.Since(since) > 3*time.Second
	})
	return down(d.line)()
}

func (d *delivery) closedBefore() {
	d.policy("--window", closedWindow())
	begin := down(d.line)()
	p := d.next()
	if n := d.quiet() - begin; n > 64<<10 {
		d.t.Errorf("%d bytes came over the line outside the time window", n)
	}
	sync := d.sync(p)
	d.t.Logf("outside the window: %+v", sync)
	if sync.State == "failed" || d.whole(p) || !strings.Contains(sync.Error+sync.Reason, "transfers are allowed at") {
		d.t.Errorf("outside the window the satellite says %+v", sync)
	}
	d.policy("--window", "")
	d.complete(p)
}

// closedMeanwhile reads, as a client that boots does, what has not arrived when the window closes.
func (d *delivery) closedMeanwhile() {
	d.line.SetRate(capped)
	defer d.line.SetRate(0)
	d.image.Fresh = 20 * megabyte // a closed window is noticed within seconds, and what was asked for until then still comes
	p := d.next()
	parts, want := d.parts(p), d.wanted(p)
	d.awaitServing(p)
	d.policy("--window", closedWindow())
	begin := d.quiet()
	fetched := d.arrived()
	if d.whole(p) || !d.offered(d.pc, satellite, p.ExportName()) {
		d.t.Fatal("the version is whole, or not offered")
	}
	// Nothing leaves the satellite that is not proven, and what is proven at once is a piece: the read wants the groups that lie in it.
	inside := parts.groups[len(parts.groups)-1].Off / delta.PieceBytes * delta.PieceBytes
	length := parts.within(inside, inside+delta.PieceBytes)
	reader, err := d.openNBD(d.pc, satellite, p.ExportName())
	d.must(err)
	data, err := reader.read(inside, 4096)
	if err != nil || string(data) != string(want[inside:inside+4096]) {
		d.t.Fatalf("a read outside the window: %v", err)
	}
	moved := d.quiet() - begin
	d.t.Logf("outside the window %d bytes came for a read that wants groups of %d; %d had been fetched before of %d", moved, length, fetched, parts.size)
	if most := length + length/10 + 128<<10; moved > most || moved < 4096 {
		d.t.Errorf("%d bytes came for a read that wants groups of %d", moved, length)
	}
	if d.whole(p) {
		d.t.Error("all came outside the window")
	}
	d.policy("--window", "")
	d.line.SetRate(0)
	d.complete(p)
}

func (d *delivery) completeOnly() {
	d.policy("--complete-only")
	d.line.SetRate(capped)
	defer d.line.SetRate(0)
	former := d.former
	begin := down(d.line)()
	p := d.next()
	d.awaitBytes("delta", down(d.line), begin+megabyte)
	if script := d.bootScript(); !strings.Contains(script, former.Version.ID) || strings.Contains(script, p.Version.ID) {
		d.t.Errorf("while the version arrives clients are told:\n%s", script)
	}
	if d.offered(d.pc, satellite, p.ExportName()) {
		d.t.Error("the version is offered before it is complete")
	}
	d.line.SetRate(0)
	d.complete(p)
	if script := d.bootScript(); !strings.Contains(script, p.Version.ID) {
		d.t.Errorf("when the version has arrived clients are told:\n%s", script)
	}
	d.policy("--complete-only=false")

	d.line.SetRate(capped)
	p = d.next()
	d.awaitServing(p)
	d.await("clients are told of the version that is arriving", func() bool { return strings.Contains(d.bootScript(), p.Version.ID) })
	if d.whole(p) {
		d.t.Error("it had arrived by then")
	}
	d.line.SetRate(0)
	d.complete(p)
}

// bootScript is what iPXE would get.
func (d *delivery) bootScript() string {
	d.t.Helper()
	script, err := d.Run(d.ctx(), d.pc, "curl", "-sSf", "http://"+satellite+"/boot.ipxe?mac=52:54:00:67:00:99")
	d.must(err)
	return script
}
