package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/progress"
	"github.com/ltsp-fleet/ltsp-fleet/internal/imagediff"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

// parseVersion reads IMAGE@NUMBER.
func parseVersion(s string) (image string, number uint64, err error) {
	image, text, ok := strings.Cut(s, "@")
	number, err = strconv.ParseUint(text, 10, 64)
	if !ok || err != nil || image == "" || number == 0 {
		return "", 0, usagef("%q: want IMAGE@NUMBER, such as lab@12, or a squashfs file", s)
	}
	return image, number, nil
}

// pairArg reads two versions; the second may be a number alone.
func pairArg(args []string) (image string, from uint64, toImage string, to uint64, err error) {
	if image, from, err = parseVersion(args[0]); err != nil {
		return
	}
	second := args[1]
	if !strings.Contains(second, "@") {
		second = image + "@" + second
	}
	toImage, to, err = parseVersion(second)
	return
}

func (a *app) imageDiff() *cobra.Command {
	var files bool
	c := &cobra.Command{
		Use:   "diff A B",
		Short: "Show what changed between two versions: packages, files, bytes, and what the transfer costs",
		Long: "diff compares two versions on the controller, or two squashfs files. Packages are told by the images' own database (dpkg or rpm). The cost of the transfer is that " +
			"of the delta if the controller has made it (see \"ltspctl image delta --stat\"), and that of the chunks.",
		Example: "  ltspctl image diff lab@11 lab@12\n  ltspctl image diff lab@11 12 --files -o json\n  ltspctl image diff old.squashfs new.squashfs",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if isImageFile(args[0]) && isImageFile(args[1]) {
				return a.diffFiles(cmd.Context(), args, files)
			}
			image, from, toImage, to, err := pairArg(args)
			if err != nil {
				return err
			}
			return a.stream(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				return a.diffVersions(ctx, adminv1.NewImageServiceClient(conn), image, from, toImage, to, files)
			})
		},
	}
	c.Flags().BoolVar(&files, "files", false, "list files instead of packages")
	return c
}

func (a *app) diffFiles(ctx context.Context, names []string, files bool) error {
	f, old, err := openSource(names[0])
	if err != nil {
		return err
	}
	defer f.Close()
	g, next, err := openSource(names[1])
	if err != nil {
		return err
	}
	defer g.Close()
	show := &stages{t: teller{r: a.progress()}}
	result, err := imagediff.Compare(ctx, old, next, imagediff.Options{Progress: func(done, total int64) { show.progress("comparing", done, total) }})
	show.t.end()
	if err != nil {
		return refused(err)
	}
	return a.printDiff(diffView{Result: result}, files)
}

func (a *app) diffVersions(ctx context.Context, api adminv1.ImageServiceClient, image string, from uint64, toImage string, to uint64, files bool) error {
	stream, err := api.DiffVersions(ctx, &adminv1.DiffVersionsRequest{Image: image, From: from, ToImage: toImage, To: to})
	if err != nil {
		return err
	}
	show := &stages{t: teller{r: a.progress()}}
	defer show.t.end()
	var v diffView
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if p := m.GetProgress(); p != nil {
			show.progress(p.GetStage(), int64(p.GetDone()), int64(p.GetTotal()))
			continue
		}
		v.Result = new(imagediff.Result)
		if err := json.Unmarshal(m.GetResult(), v.Result); err != nil {
			return fmt.Errorf("read the controller's answer: %w", err)
		}
	}
	show.t.end()
	if v.Result == nil {
		return errors.New("the controller sent no result")
	}
	d, err := a.getDelta(ctx, api, &adminv1.GetDeltaRequest{Image: image, From: from, ToImage: toImage, To: to})
	if err != nil {
		return err
	}
	v.Delta = &d
	return a.printDiff(v, files)
}

type diffView struct {
	*imagediff.Result
	Delta *transferView `json:"transfer,omitempty"`
}

func (a *app) printDiff(v diffView, files bool) error {
	view := printer.View{Value: v, Columns: []string{"PACKAGE", "CHANGE", "OLD", "NEW", "CONTENT"}}
	for _, p := range v.Packages {
		view.Rows = append(view.Rows, []string{p.Name, string(p.Kind), p.Old, p.New, progress.Bytes(uint64(p.Bytes))})
	}
	if files || !v.PackageDatabase {
		view.Columns, view.Rows = []string{"FILE", "CHANGE", "OLD", "NEW", "PACKAGE"}, nil
		for _, f := range v.Files {
			view.Rows = append(view.Rows, []string{f.Path, string(f.Kind), progress.Bytes(uint64(f.OldSize)), progress.Bytes(uint64(f.NewSize)), f.Package})
		}
	}
	if err := a.print(view); err != nil {
		return err
	}
	r := v.Result
	a.say("")
	a.say("%d packages differ; files: %d added (%s), %d removed (%s), %d changed (%s), %d with other attributes; %s the same", len(r.Packages),
		r.AddedFiles, progress.Bytes(uint64(r.AddedBytes)), r.RemovedFiles, progress.Bytes(uint64(r.RemovedBytes)),
		r.ChangedFiles, progress.Bytes(uint64(r.ChangedBytes)), r.AttributeFiles, progress.Bytes(uint64(r.UnchangedBytes)))
	if d := v.Delta; d != nil {
		cost := "not made yet (ltspctl image delta A B --stat makes it)"
		if d.State == "ready" {
			cost = progress.Bytes(d.SizeBytes)
		} else if d.State != "none" {
			cost = d.State
		}
		a.say("transfer: delta %s; as chunks %s", cost, progress.Bytes(d.ChunkBytes))
	}
	return nil
}

func (a *app) imageDelta() *cobra.Command {
	var stat bool
	c := &cobra.Command{
		Use:   "delta A B",
		Short: "Show the delta between two versions, with --stat make it and show what it consists of",
		Long: "delta tells whether the controller has the delta that leads from A to B. The controller makes deltas by itself when a satellite needs one; --stat makes it now, waits, " +
			"and shows its parts.",
		Example: "  ltspctl image delta lab@11 lab@12\n  ltspctl image delta lab@11 12 --stat",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			image, from, toImage, to, err := pairArg(args)
			if err != nil {
				return err
			}
			return a.stream(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				request := &adminv1.GetDeltaRequest{Image: image, From: from, ToImage: toImage, To: to, Make: stat}
				v, err := a.getDelta(ctx, adminv1.NewImageServiceClient(conn), request)
				if err != nil {
					return err
				}
				if v.State == "failed" {
					return fmt.Errorf("the delta could not be made: %s", v.Error)
				}
				return a.print(v.table(stat))
			})
		},
	}
	c.Flags().BoolVar(&stat, "stat", false, "make the delta if it is not there, and show its parts")
	return c
}

type transferView struct {
	State        string            `json:"state"`
	SizeBytes    uint64            `json:"size_bytes"`
	IndexBytes   uint64            `json:"index_bytes"`
	ChunkBytes   uint64            `json:"chunk_bytes"`
	Groups       uint32            `json:"groups"`
	Encoder      string            `json:"encoder,omitempty"`
	CopiedBytes  uint64            `json:"copied_bytes"`
	ChangedBytes uint64            `json:"changed_content_bytes"`
	Sections     map[string]uint64 `json:"sections,omitempty"`
	Made         *time.Time        `json:"made,omitempty"`
	CPUSeconds   float64           `json:"cpu_seconds,omitempty"`
	Error        string            `json:"error,omitempty"`
}

// getDelta asks for a delta and shows progress while it is made.
func (a *app) getDelta(ctx context.Context, api adminv1.ImageServiceClient, request *adminv1.GetDeltaRequest) (transferView, error) {
	stream, err := api.GetDelta(ctx, request)
	if err != nil {
		return transferView{}, err
	}
	show := &stages{t: teller{r: a.progress()}}
	defer show.t.end()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return transferView{}, errors.New("the controller ended without an answer")
		}
		if err != nil {
			return transferView{}, err
		}
		if p := m.GetProgress(); p != nil {
			show.progress(p.GetStage(), int64(p.GetDone()), int64(p.GetTotal()))
			continue
		}
		d := m.GetDelta()
		return transferView{
			State: d.GetState(), SizeBytes: d.GetSizeBytes(), IndexBytes: d.GetIndexBytes(), ChunkBytes: d.GetChunkBytes(), Groups: d.GetGroups(), Encoder: d.GetEncoder(),
			CopiedBytes: d.GetCopiedBytes(), ChangedBytes: d.GetChangedBytes(), Sections: d.GetSections(), Made: stamp(d.GetMade()),
			CPUSeconds: d.GetCpu().AsDuration().Seconds(), Error: d.GetError(),
		}, nil
	}
}

func (v transferView) table(stat bool) printer.View {
	rows := [][2]string{{"state", v.State}}
	if v.State == "ready" {
		rows = append(rows, [2]string{"delta", progress.Bytes(v.SizeBytes)}, [2]string{"of it index", progress.Bytes(v.IndexBytes)})
	}
	rows = append(rows, [2]string{"as chunks", progress.Bytes(v.ChunkBytes)})
	if v.Error != "" {
		rows = append(rows, [2]string{"error", v.Error})
	}
	if stat && v.State == "ready" {
		rows = append(rows, [2]string{"groups", fmt.Sprint(v.Groups)}, [2]string{"encoder", v.Encoder},
			[2]string{"copied", progress.Bytes(v.CopiedBytes)}, [2]string{"changed content", progress.Bytes(v.ChangedBytes)}, [2]string{"made", day(v.Made)})
		for _, name := range slices.Sorted(maps.Keys(v.Sections)) {
			rows = append(rows, [2]string{"  " + name, progress.Bytes(v.Sections[name])})
		}
	}
	return fields(v, rows)
}
