package command

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

// transferFlags say how a site may use its line to the controller.
type transferFlags struct {
	bandwidth, window, method string
	lazyWait                  time.Duration
	completeOnly              bool
}

func (f *transferFlags) register(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.bandwidth, "bandwidth", "", "most that all satellites of the site take over the WAN: 2Mbit, 500kbit, 250kB (a second); 0: no cap")
	fs.StringVar(&f.window, "window", "", "daily time for transfers in the satellites' local time, such as 22:00-06:00; empty: always. What a client waits for passes at any time")
	fs.StringVar(&f.method, "transfer", "", "how new versions come: auto (the cheapest; default), delta, chunks or whole")
	fs.DurationVar(&f.lazyWait, "lazy-wait", 0, "how long a client waits for a part of a version that has not arrived, before it turns to another satellite (default 20s)")
	fs.BoolVar(&f.completeOnly, "complete-only", false, "let clients boot a version only when all of it has arrived")
	_ = c.RegisterFlagCompletionFunc("transfer", cobra.FixedCompletions([]string{"auto", "delta", "chunks", "whole"}, cobra.ShellCompDirectiveNoFileComp))
}

// apply puts the flags that were given into t.
func (f *transferFlags) apply(changed func(string) bool, t *satellitev1.TransferPolicy) error {
	if changed("bandwidth") {
		rate, err := parseRate(f.bandwidth)
		if err != nil {
			return err
		}
		t.BytesPerSecond = rate
	}
	if changed("window") {
		t.Window = f.window
	}
	if changed("transfer") {
		m, ok := satellitev1.SyncMethod_value["SYNC_METHOD_"+strings.ToUpper(f.method)]
		if !ok || satellitev1.SyncMethod(m) == satellitev1.SyncMethod_SYNC_METHOD_WAIT {
			return usagef("--transfer %q: want auto, delta, chunks or whole", f.method)
		}
		t.Method = satellitev1.SyncMethod(m)
	}
	if changed("lazy-wait") {
		t.LazyWait = durationOrNil(f.lazyWait)
	}
	if changed("complete-only") {
		t.CompleteOnly = f.completeOnly
	}
	return nil
}

// parseRate reads a rate in bits or bytes a second, with or without "/s" behind; a bare number counts bytes.
func parseRate(s string) (uint64, error) {
	number := strings.TrimSuffix(strings.TrimSpace(s), "/s")
	factor := 1.0
	for _, unit := range []struct {
		suffix string
		factor float64
	}{
		{"kbit", 1e3 / 8}, {"Mbit", 1e6 / 8}, {"Gbit", 1e9 / 8}, {"bit", 1.0 / 8}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1},
	} {
		if rest, ok := strings.CutSuffix(number, unit.suffix); ok {
			number, factor = rest, unit.factor
			break
		}
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || n < 0 || n*factor > 1e12 {
		return 0, usagef("rate %q: want a number with kbit, Mbit, Gbit, kB or MB behind, such as 2Mbit", s)
	}
	return uint64(n * factor), nil
}

// rateText writes a rate as parseRate reads it.
func rateText(bytesPerSecond uint64) string {
	switch bits := float64(bytesPerSecond) * 8; {
	case bytesPerSecond == 0:
		return "no cap"
	case bits >= 1e9:
		return fmt.Sprintf("%gGbit", bits/1e9)
	case bits >= 1e6:
		return fmt.Sprintf("%gMbit", bits/1e6)
	default:
		return fmt.Sprintf("%gkbit", bits/1e3)
	}
}
