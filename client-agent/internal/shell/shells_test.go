//go:build !component

package shell

// shells are this machine's own one only; the component tests try all that images have.
var shells = map[string][]string{"sh": nil}
