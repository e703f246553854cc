package applet

import (
	"context"
	"errors"
	"io/fs"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
)

func run(context.Context, Config) (Result, error) { return Result{}, errors.ErrUnsupported }

func reapply(context.Context, Config, Result) (Result, error) { return Result{}, errors.ErrUnsupported }

func load(rootdir.Root, string) (Result, error) { return Result{}, fs.ErrNotExist }
