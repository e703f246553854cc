package uevent

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const usb = "add@/devices/pci0000:00/usb1/1-1\x00ACTION=add\x00DEVPATH=/devices/pci0000:00/usb1/1-1\x00SUBSYSTEM=usb\x00" +
	"MODALIAS=usb:v0BDAp8153d3000dc00dsc00dp00icFFiscFFip00in00\x00SEQNUM=1234\x00"

func TestParse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in string
		want     Event
	}{
		{"usb", usb, Event{Action: "add", Subsystem: "usb", Modalias: "usb:v0BDAp8153d3000dc00dsc00dp00icFFiscFFip00in00"}},
		{"net", "move@/devices/x\x00ACTION=move\x00SUBSYSTEM=net\x00INTERFACE=eth0", Event{Action: "move", Subsystem: "net"}},
		{"value with =", "ACTION=a=b", Event{Action: "a=b"}},
		{"from udev", "libudev\x00\xfe\xed\xca\xfe", Event{}},
		{"empty", "", Event{}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, parse([]byte(tt.in))); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	l, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for { // events of this machine may come in
		if _, err := l.Next(time.Now()); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v, want a timeout", err)
			}
			return
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(usb))
	f.Add([]byte("\x00=\x00ACTION"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e := parse(data); len(e.Action)+len(e.Subsystem)+len(e.Modalias) > len(data) {
			t.Errorf("%+v is longer than its text", e)
		}
	})
}
