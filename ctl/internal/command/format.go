package command

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// stamp turns a protobuf time into one for JSON; nil stays nil.
func stamp(t *timestamppb.Timestamp) *time.Time {
	if t == nil || t.GetSeconds() == 0 {
		return nil
	}
	v := t.AsTime().UTC()
	return &v
}

// age says how long ago t was, in one unit.
func age(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return span(time.Since(*t))
}

// span formats a duration in its largest unit.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "in " + span(-d)
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// day formats a time for tables.
func day(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04")
}

// seconds formats a duration as seconds with two digits, "" for nil.
func seconds(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return fmt.Sprintf("%.2f s", d.AsDuration().Seconds())
}

// short cuts a hash for tables.
func short(hex string) string {
	if len(hex) > 12 {
		return hex[:12]
	}
	return hex
}

// plain keeps what others have written from moving the cursor of the admin's terminal. Line ends stay.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func count(done, of uint32) string { return fmt.Sprintf("%d/%d", done, of) }

func list(items []string) string { return strings.Join(items, ",") }
