package fleet

import (
	"slices"
	"strings"
	"time"
)

// CommandKind is what a command has a client do.
type CommandKind string

// Kinds of commands. All but Wake are done by the client's agent, Wake by the satellites.
const (
	CommandReboot   CommandKind = "reboot"
	CommandPowerOff CommandKind = "poweroff"
	CommandMessage  CommandKind = "message" // shows Text to who sits there
	CommandLogs     CommandKind = "logs"    // the end of the journal; Args are unit names
	CommandRun      CommandKind = "run"     // Args are a program and its arguments, run as root
	CommandWake     CommandKind = "wake"
)

// Command has one client do something.
type Command struct {
	ID      string // 32 hex digits
	MAC     MAC
	Kind    CommandKind
	Args    []string
	Text    string
	Timeout Duration // what the client may take
}

// CommandResult is how a command ended.
type CommandResult struct {
	ID      string
	MAC     MAC
	Error   string // empty if the command did what it should
	Output  string
	Exit    int32
	NotHere bool // the satellite has no stream of the client
}

// Bounds of commands and results.
const (
	DefaultCommandTimeout = Duration(30 * time.Second)
	minCommandTimeout     = Duration(time.Second)
	maxCommandTimeout     = Duration(10 * time.Minute)
	maxCommandArgs        = 64
	maxCommandArgBytes    = 8 << 10
	maxCommandText        = 4 << 10
	maxCommandOutput      = 32 << 10
)

// Check fills the timeout and reports the first rule that the command breaks. The client does not count.
func (c *Command) Check() error {
	if c.Timeout == 0 {
		c.Timeout = DefaultCommandTimeout
	}
	if c.Timeout < minCommandTimeout || c.Timeout > maxCommandTimeout {
		return invalid("timeout %s: want %s to %s", c.Timeout, minCommandTimeout, maxCommandTimeout)
	}
	bytes := 0
	for _, arg := range c.Args {
		bytes += len(arg)
		if strings.ContainsRune(arg, 0) {
			return invalid("an argument holds a zero byte")
		}
	}
	if len(c.Args) > maxCommandArgs || bytes > maxCommandArgBytes {
		return invalid("%d arguments of %d bytes, at most %d of %d are allowed", len(c.Args), bytes, maxCommandArgs, maxCommandArgBytes)
	}
	if len(c.Text) > maxCommandText || strings.ContainsRune(c.Text, 0) {
		return invalid("a text of %d bytes: want at most %d, without zero bytes", len(c.Text), maxCommandText)
	}
	return c.checkKind()
}

func (c *Command) checkKind() error {
	switch c.Kind {
	case CommandReboot, CommandPowerOff, CommandWake:
		if len(c.Args) > 0 || c.Text != "" {
			return invalid("%s takes neither arguments nor a text", c.Kind)
		}
	case CommandMessage:
		if c.Text == "" || len(c.Args) > 0 {
			return invalid("message wants a text and no arguments")
		}
	case CommandLogs:
		if c.Text != "" {
			return invalid("logs takes no text")
		}
	case CommandRun:
		if len(c.Args) == 0 || c.Args[0] == "" || c.Text != "" {
			return invalid("run wants a program, and no text")
		}
	default:
		return invalid("command %q: want reboot, poweroff, message, logs, run or wake", c.Kind)
	}
	return nil
}

// commands are the kinds that the site allows, in order.
func (s *Site) commands() []CommandKind {
	kinds := []CommandKind{CommandLogs, CommandMessage, CommandPowerOff, CommandReboot, CommandWake}
	if s.AllowRun {
		kinds = append(kinds, CommandRun)
	}
	slices.Sort(kinds)
	return kinds
}

// CheckCommand refuses what the site does not allow.
func (s *Site) CheckCommand(kind CommandKind) error {
	if kind == CommandRun && !s.AllowRun {
		return Errorf(ErrDenied, "site %s does not allow to run programs on its clients; \"ltspctl site set %s --allow-run\" does", s.Name, s.Name)
	}
	return nil
}

// Bound cuts what a satellite told to what is sensible to pass on.
func (r *CommandResult) Bound() {
	cleanTo(&r.Error, 1024)
	if n := len(r.Output); n > maxCommandOutput {
		r.Output = r.Output[n-maxCommandOutput:]
	}
	r.Output = strings.ToValidUTF8(r.Output, "\uFFFD")
}

// ClientEvent is something that happened on a client and is not its state. Key: Site and Sequence.
type ClientEvent struct {
	Site     string    `json:"site"`
	Sequence uint64    `json:"sequence"` // in the site, from 1
	MAC      MAC       `json:"mac"`
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"` // login-host, host-key, remoteapp or policy
	Text     string    `json:"text"`
}

// MaxClientEvents is how many events of a site are kept.
const MaxClientEvents = 1000

// Bound cuts an event likewise.
func (e *ClientEvent) Bound() {
	clean(&e.Kind)
	cleanTo(&e.Text, 512)
}
