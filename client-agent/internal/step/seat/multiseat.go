package seat

import (
	"cmp"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

// Multiseat returns the step 55-multiseat.
func Multiseat() step.Step {
	return step.Step{Name: "55-multiseat", Main: "multiseat_main", Functions: []step.Function{
		{Name: "detect_multiseat", Needs: []string{"MULTISEAT"}, Do: detect},
		{Name: "config_seats", Needs: []string{"UDEV_SEAT_*"}, Do: seats},
	}}
}

const seatRules = "/etc/udev/rules.d/72-ltsp-seats.rules"

const (
	seatGraphics = "UDEV_SEAT_1_GRAPHICS"
	seatPorts    = "UDEV_SEAT_1_ODD_USB_PORTS"
)

// detect gives the first of several graphics cards and the odd USB ports to a second seat.
func detect(c *step.Context) error {
	if c.Values["MULTISEAT"] != "1" || cmp.Or(c.Values[seatGraphics], "auto") != "auto" {
		return nil
	}
	sys := cmp.Or(c.Facts.Sys, "/sys")
	first, count := "", 0
	odd := false
	devices := filepath.Join(sys, "devices")
	err := filepath.WalkDir(devices, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // a device may go while we look
		}
		rel := strings.TrimPrefix(p, sys)
		switch {
		case d.Name() == "boot_vga" && strings.HasPrefix(rel, "/devices/pci"):
			card := filepath.Dir(rel)
			if count++; first == "" || card < first {
				first = card
			}
		case oddHubPort.MatchString(d.Name()):
			odd = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	if count < 2 {
		delete(c.Values, seatGraphics)
		delete(c.Values, seatPorts)
		return nil
	}
	c.Values[seatGraphics] = first + "*"
	if c.Values[seatPorts] == "" {
		c.Values[seatPorts] = "*/usb?/?-[13579]/*"
		if odd {
			c.Values[seatPorts] = "*/usb?/?-?/?-?.[13579]/*" // behind a hub on the board
		}
	}
	return nil
}

var oddHubPort = regexp.MustCompile(`^.-.\.[13579]$`)

var seatNumber = regexp.MustCompile(`^UDEV_SEAT_([0-9])_.`)

func seats(c *step.Context) error {
	var b strings.Builder
	for _, name := range c.Values.Names("UDEV_SEAT_") {
		m := seatNumber.FindStringSubmatch(name)
		if m == nil {
			c.Remark("%s: want UDEV_SEAT_, a digit, _ and a name", name)
			continue
		}
		value := c.Values[name]
		if strings.ContainsAny(value, "\"\n") {
			c.Remark("%s: %q cannot stand in a rule of udev's", name, value)
			continue
		}
		b.WriteString(`TAG=="seat", DEVPATH=="` + value + `", ENV{ID_SEAT}="seat-` + m[1] + "\"\n")
	}
	if b.Len() == 0 {
		return c.Root.Remove(seatRules) // of the machine that the image was made from
	}
	return c.Generate(seatRules, b.String())
}
