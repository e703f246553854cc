package remoteapps

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// dialogs are programs that show a message on a desktop, the best first.
var dialogs = []struct {
	name string
	args func(title, text string) []string
}{
	{"zenity", func(title, text string) []string {
		return []string{"--error", "--no-markup", "--title", title, "--text", text}
	}},
	{"kdialog", func(title, text string) []string { return []string{"--title", title, "--error", text} }},
	{"xmessage", func(title, text string) []string { return []string{"-center", "-title", title, text} }},
	{"notify-send", func(title, text string) []string { return []string{title, text} }},
}

// Tell shows a message to the user: in a terminal where there is one, else on the desktop by the first program of the image that can, else on stderr for
// what keeps it. It does not wait for the user.
func Tell(stderr *os.File, title, text string) {
	fmt.Fprintln(stderr, text)
	if isTerminal(stderr) || os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
		return
	}
	for _, d := range dialogs {
		program, err := exec.LookPath(d.name)
		if err != nil {
			continue
		}
		cmd := exec.Command(program, d.args(title, text)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if cmd.Start() == nil {
			_ = cmd.Process.Release() // it stays until the user has read it
			return
		}
	}
}
