package command

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"context"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/imagebuild"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/progress"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/publish"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

type builtView struct {
	File      string `json:"file"`
	SizeBytes int64  `json:"size_bytes"`
}

type buildFlags struct {
	name, to, excludesFile string
	add, omit, params      []string
	keepUsers, fullSpeed   bool
}

func (a *app) imageBuild() *cobra.Command {
	var f buildFlags
	c := &cobra.Command{
		Use:   "build SOURCE",
		Short: "Make a squashfs of a machine, a directory, a tarball or a virtual disk",
		Long: "build packs SOURCE with mksquashfs: \"/\" for this machine, a directory, a tar file, a virtual disk (raw, qcow2, vmdk; the partition that holds an " +
			"operating system is found), or a ready squashfs, which is only checked and copied. Accounts of people, secrets of the machine, logs and caches stay out; " +
			"the source itself is not changed.",
		Example: "  ltspctl image build / --name lab\n" +
			"  ltspctl image build /srv/ltsp/lab --name lab --mksquashfs-param=-b --mksquashfs-param=1M\n" +
			"  ltspctl image build lab.qcow2 --name lab --add-exclude 'opt/games'",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runBuild(cmd.Context(), args[0], f) },
	}
	fs := c.Flags()
	fs.StringVar(&f.name, "name", "", "name of the image; the file is NAME.squashfs")
	fs.StringVar(&f.to, "to", "", "file to write instead")
	fs.StringVar(&f.excludesFile, "excludes", "", "file with patterns that replaces the built-in exclude list")
	fs.StringArrayVar(&f.add, "add-exclude", nil, "pattern to leave out as well (repeatable)")
	fs.StringArrayVar(&f.omit, "omit-exclude", nil, "pattern of the built-in list not to leave out (repeatable)")
	fs.StringArrayVar(&f.params, "mksquashfs-param", nil, "argument for mksquashfs (repeatable)")
	fs.BoolVar(&f.keepUsers, "keep-users", false, "keep accounts, logs and fstab as they are")
	fs.BoolVar(&f.fullSpeed, "full-speed", false, "run without nice and ionice")
	return c
}

func (a *app) runBuild(ctx context.Context, source string, f buildFlags) error {
	if f.to == "" {
		if f.name == "" {
			return usagef("say how the image is called: --name NAME (or --to FILE)")
		}
		f.to = f.name + ".squashfs"
	}
	if f.name != "" {
		if err := manifest.CheckName(f.name); err != nil {
			return usageError{err}
		}
	}
	excludes := imagebuild.Excludes(f.add, f.omit)
	if f.excludesFile != "" {
		lines, err := imagebuild.ReadLines(f.excludesFile)
		if err != nil {
			return err
		}
		excludes = append(lines, f.add...)
	}
	show := newSteps(a.progress())
	result, err := imagebuild.Build(ctx, imagebuild.Options{Source: source, Output: f.to, Excludes: excludes, Params: f.params,
		KeepUsers: f.keepUsers, FullSpeed: f.fullSpeed, Progress: show.update})
	show.done()
	if errors.Is(err, imagebuild.ErrSource) {
		return invalidError{err}
	}
	if err != nil {
		return err
	}
	v := builtView{File: result.Path, SizeBytes: result.SizeBytes}
	return a.print(printer.View{Value: v, Columns: []string{"FILE", "SIZE"}, Rows: [][]string{{v.File, progress.Bytes(uint64(v.SizeBytes))}}})
}

// steps turns (step, percent) into lines and bars.
type steps struct {
	r    *progress.Reporter
	name string
	bar  *progress.Bar
}

func newSteps(r *progress.Reporter) *steps { return &steps{r: r} }

func (s *steps) update(step string, percent int) {
	if step != s.name {
		s.done()
		s.name = step
		if percent < 0 {
			s.r.Step("%s", step)
			return
		}
		s.bar = s.r.PercentBar(step)
	}
	s.bar.Set(uint64(max(0, percent)))
}

func (s *steps) done() {
	s.bar.Done()
	s.bar = nil
}

func (a *app) imagePublishBootloaders() *cobra.Command {
	var note string
	var channels []string
	c := &cobra.Command{
		Use:   "publish-bootloaders [DIR]",
		Short: "Publish the boot loaders that PCs' firmware loads: iPXE from DIR (default /usr/lib/ipxe)",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "/usr/lib/ipxe"
			if len(args) == 1 {
				dir = filepath.Clean(args[0])
			}
			return a.stream(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				p, err := publish.PrepareBootloaders(ctx, dir, note)
				if errors.Is(err, publish.ErrNoBootloaders) {
					return invalidError{err}
				}
				if err != nil {
					return fmt.Errorf("boot loaders: %w", err)
				}
				defer p.Close()
				return a.upload(ctx, conn, p, channels)
			})
		},
	}
	c.Flags().StringVar(&note, "note", "", "remark for people")
	c.Flags().StringSliceVar(&channels, "channel", []string{"stable"}, "channel to point to the new version (repeatable)")
	return c
}
