//go:build component

package shell

// shells are what images have as /bin/sh.
var shells = map[string][]string{
	"sh": nil, "dash": {"/bin/dash"}, "bash": {"/bin/bash"}, "bash as sh": {"/bin/bash", "--posix"}, "busybox": {"/bin/busybox", "sh"},
}
