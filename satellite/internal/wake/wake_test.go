package wake

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/hw"
)

func TestPacket(t *testing.T) {
	t.Parallel()
	got, err := Packet("52-54-00-AA-BB-0C")
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Repeat("ff", 6) + strings.Repeat("525400aabb0c", 16))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	for _, bad := range []string{"", "ff:ff:ff:ff:ff:ff", "52:54:00"} {
		if err := Send(t.Context(), bad, nil); !errors.Is(err, hw.ErrNoMAC) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestBroadcast(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"10.0.0.1/24": "10.0.0.255", "10.1.2.3/20": "10.1.15.255", "10.0.0.1/32": "10.0.0.1", "10.0.0.1/31": "10.0.0.1", "1.2.3.4/0": "255.255.255.255"} {
		if got := broadcast(netip.MustParsePrefix(in)); got.String() != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestSendFails(t *testing.T) {
	t.Parallel()
	if err := Send(t.Context(), "52:54:00:00:00:01", nil); err == nil || !strings.Contains(err.Error(), "no network") {
		t.Errorf("without a network: %v", err)
	}
	gone := Link{"nosuchdev0", netip.MustParsePrefix("127.0.0.1/8")}
	if err := Send(t.Context(), "52:54:00:00:00:01", []Link{gone}); err == nil || !strings.Contains(err.Error(), "nosuchdev0") {
		t.Errorf("interface that is not there: %v", err)
	}
}
