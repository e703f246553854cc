package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/progress"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/publish"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/inspect"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

func (a *app) imagePublish() *cobra.Command {
	var o publish.Options
	var channels []string
	c := &cobra.Command{
		Use:   "publish FILE",
		Short: "Publish a squashfs as the newest version of an image",
		Long: "publish checks that the image can be netbooted, makes its initrds out of its own kernel modules with ltsp-agent as init, and uploads what the controller " +
			"lacks. Interrupt it anywhere and run it again: what has arrived is not sent twice. Nothing is uploaded of an image that cannot boot.",
		Example: "  ltspctl image publish lab.squashfs --name lab --channel stable\n" +
			"  ltspctl image publish lab.squashfs --name lab --channel testing --note 'GIMP added'\n" +
			"  ltspctl image publish lab-42.squashfs --name lab --channel stable --base lab-41.squashfs",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.File = args[0]
			if err := manifest.CheckName(o.Name); err != nil {
				return usageError{err}
			}
			if o.Base != "" {
				debug.SetMemoryLimit(delta.HeapLimit(delta.DefaultMemoryBytes))
			}
			return a.stream(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				return a.runPublish(ctx, conn, o, channels)
			})
		},
	}
	fs := c.Flags()
	fs.StringVar(&o.Name, "name", "", "name of the image")
	fs.StringSliceVar(&channels, "channel", nil, "channel to point to the new version (repeatable; without it no PC boots the version yet)")
	fs.StringVar(&o.Note, "note", "", "remark for people")
	fs.StringVar(&o.Arch, "arch", "", "refuse an image of another architecture than this: amd64 or arm64")
	fs.StringVar(&o.Agent, "agent", "", "ltsp-agent binary for the initrd (default: beside ltspctl, or for another architecture ltsp-agent-ARCH)")
	fs.StringVar(&o.CacheDir, "initrd-cache", defaultInitrdCache(), "directory that keeps made initrds; empty for none")
	fs.StringVar(&o.Base, "base", "", "squashfs of a version that the controller has: what is sent of the image is then the delta from it")
	fs.BoolVar(&o.Shallow, "shallow", false, "do not check every block of the image")
	_ = c.MarkFlagRequired("name")
	return c
}

func defaultInitrdCache() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "ltspctl", "initrd")
}

func (a *app) runPublish(ctx context.Context, conn *grpc.ClientConn, o publish.Options, channels []string) error {
	agent, err := findAgent(o.Agent, o.Arch)
	if err != nil {
		return err
	}
	o.Agent = agent
	show := &teller{r: a.progress()}
	o.Step = show.step
	p, err := publish.Prepare(ctx, o)
	show.end()
	var unfit *inspect.Error
	if errors.As(err, &unfit) || errors.Is(err, publish.ErrAgent) {
		return invalidError{err}
	}
	if err != nil {
		return refused(err)
	}
	defer p.Close()
	return a.upload(ctx, conn, p, channels)
}

// teller shows the steps of publish.Prepare, one bar after the other.
type teller struct {
	r   *progress.Reporter
	bar *progress.Bar
}

func (t *teller) step(what string) func(done, total int64) {
	t.end()
	t.bar = t.r.Bar(what, 0)
	bar := t.bar
	return func(done, total int64) {
		bar.Total(uint64(total))
		bar.Set(uint64(done))
	}
}

func (t *teller) end() {
	t.bar.Done()
	t.bar = nil
}

// findAgent returns the path of the ltsp-agent binary.
func findAgent(given, arch string) (string, error) {
	if given != "" {
		return given, nil
	}
	name := "ltsp-agent"
	if arch != "" && arch != runtime.GOARCH {
		name += "-" + arch
	}
	var places []string
	if self, err := os.Executable(); err == nil {
		places = append(places, filepath.Join(filepath.Dir(self), name))
	}
	places = append(places, filepath.Join("/usr/lib/ltsp-fleet", name), filepath.Join("/usr/local/bin", name))
	for _, path := range places {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", invalidError{fmt.Errorf("the initrd needs the %s binary, which is not in %v: name it by --agent", name, places)}
}
