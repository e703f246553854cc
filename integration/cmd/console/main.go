// Command console connects the terminal to the serial console of a virtual PC that the demo keeps.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: console SOCKET")
		os.Exit(2)
	}
	if err := testvm.Attach(context.Background(), os.Args[1], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "console:", err)
		os.Exit(1)
	}
}
