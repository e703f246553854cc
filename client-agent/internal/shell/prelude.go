package shell

import _ "embed"

// Prelude defines the functions that hooks and drop-in scripts written for LTSP may call.
//
//go:embed prelude.sh
var Prelude string
