package config

import "time"

// CommandWake is the kind of command that a satellite carries out itself; all others are the client's.
const CommandWake = "wake"

// Command has a client of the site do something.
type Command struct {
	ID      string // 32 hex digits
	MAC     string // aa:bb:cc:dd:ee:ff
	Kind    string
	Args    []string
	Text    string
	Timeout time.Duration // zero: the client's default
}

// CommandResult is how a command ended.
type CommandResult struct {
	ID, MAC string
	Error   string // empty if the command did what it should
	Output  string
	Exit    int
	// NotHere tells that this satellite has no stream of the client: another one may have.
	NotHere bool
}
