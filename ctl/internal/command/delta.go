package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/progress"
	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// delta is the tool on files: it needs no controller.
func (a *app) delta() *cobra.Command {
	return group("delta", "Make and apply deltas between squashfs files (no controller needed)", a.deltaMake(), a.deltaApply(), a.deltaVerify())
}

// deltaFlags are what make, apply and verify have in common.
type deltaFlags struct {
	out, format string
	memory      int
	parallel    int
}

func (f *deltaFlags) register(c *cobra.Command, file string) {
	fs := c.Flags()
	fs.IntVar(&f.memory, "memory", delta.DefaultMemoryBytes>>20, "MiB of memory that the process may take")
	fs.IntVar(&f.parallel, "parallel", 0, "goroutines at work (default: one per processor)")
	if file == "" {
		return
	}
	// Here -o names a file, as it does in other tools that make one; the format of what is printed has a flag of its own.
	fs.StringVarP(&f.out, "output", "o", "", file)
	fs.StringVar(&f.format, "format", "table", "format of what is printed: table, json or yaml")
	_ = c.MarkFlagRequired("output")
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
}

// deltaOptions checks the flags and bounds the heap. End must be called after the work.
func (a *app) deltaOptions(f deltaFlags) (opt delta.Options, end func(), err error) {
	if f.memory < 16 || f.memory > 1<<20 {
		return opt, nil, usagef("--memory %d: want 16 to %d MiB", f.memory, 1<<20)
	}
	if f.parallel < 0 || f.parallel > 1024 {
		return opt, nil, usagef("--parallel %d: want 0 to 1024", f.parallel)
	}
	if f.format != "" {
		a.output = f.format
		if _, err := printer.ParseFormat(f.format); err != nil {
			return opt, nil, usageError{err}
		}
	}
	memory := int64(f.memory) << 20
	debug.SetMemoryLimit(delta.HeapLimit(memory))
	show := &stages{t: teller{r: a.progress()}}
	return delta.Options{MemoryBytes: memory, Parallel: f.parallel, Progress: show.progress}, show.t.end, nil
}

// stages shows work that names its stages while it goes on.
type stages struct {
	t     teller
	stage string
	set   func(done, total int64)
}

func (s *stages) progress(stage string, done, total int64) {
	if s.stage != stage || s.set == nil {
		s.stage, s.set = stage, s.t.step(stageTitle(stage))
	}
	s.set(done, total)
}

func stageTitle(stage string) string {
	switch stage {
	case "hash":
		return "comparing blocks"
	case "diff":
		return "finding differences"
	case "prove":
		return "proving every group"
	case "write":
		return "writing"
	}
	return stage
}

// openImage opens a file as a source.
func openSource(name string) (*os.File, *io.SectionReader, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("it is no regular file")}
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, io.NewSectionReader(f, 0, info.Size()), nil
}

// refused marks errors that are about the files' content.
func refused(err error) error {
	for _, kind := range []error{
		delta.ErrFormat, delta.ErrVersion, delta.ErrWrongOld, delta.ErrMismatch, delta.ErrLimit,
		squashfs.ErrNotSquashfs, squashfs.ErrTruncated, squashfs.ErrCorrupt, squashfs.ErrCompressor,
		io.ErrUnexpectedEOF, // files end before they should
	} {
		if errors.Is(err, kind) {
			return invalidError{err}
		}
	}
	return err
}

func (a *app) deltaMake() *cobra.Command {
	var f deltaFlags
	c := &cobra.Command{
		Use:   "make OLD NEW -o DELTA",
		Short: "Make the delta that leads from one squashfs to another",
		Long: "make writes what a satellite with OLD must receive to make the exact bytes of NEW, and shows what it consists of. Every part of it has been decoded and " +
			"compared before it is written.",
		Example: "  ltspctl delta make lab-41.squashfs lab-42.squashfs -o 41-42.delta",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt, end, err := a.deltaOptions(f)
			if err != nil {
				return err
			}
			stats, err := makeDelta(cmd.Context(), args[0], args[1], f.out, opt)
			end()
			if err != nil {
				return refused(err)
			}
			return a.print(statsView(stats))
		},
	}
	f.register(c, "file to write the delta to")
	return c
}

func makeDelta(ctx context.Context, oldName, newName, out string, opt delta.Options) (*delta.Stats, error) {
	f, old, err := openSource(oldName)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	g, next, err := openSource(newName)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	opt.TempDir = filepath.Dir(out)
	var stats *delta.Stats
	err = atomicfile.WriteFunc(out, 0o644, func(w io.Writer) error {
		stats, err = delta.Make(ctx, old, next, w, opt)
		return err
	})
	return stats, err
}

func (a *app) deltaApply() *cobra.Command {
	var f deltaFlags
	c := &cobra.Command{
		Use:     "apply OLD DELTA -o NEW",
		Short:   "Make the new squashfs from the old one and a delta",
		Long:    "apply writes the exact bytes that the delta was made for, or nothing: the file appears under its name when all of it has been verified.",
		Example: "  ltspctl delta apply lab-41.squashfs 41-42.delta -o lab-42.squashfs",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt, end, err := a.deltaOptions(f)
			if err != nil {
				return err
			}
			opt.TempDir = filepath.Dir(f.out)
			id, err := applyDelta(cmd.Context(), args[0], args[1], f.out, opt)
			end()
			if err != nil {
				return refused(err)
			}
			return a.print(identityView(id))
		},
	}
	f.register(c, "file to write the new squashfs to")
	return c
}

func applyDelta(ctx context.Context, oldName, deltaName, out string, opt delta.Options) (delta.Identity, error) {
	f, old, err := openSource(oldName)
	if err != nil {
		return delta.Identity{}, err
	}
	defer f.Close()
	g, wire, err := openSource(deltaName)
	if err != nil {
		return delta.Identity{}, err
	}
	defer g.Close()
	index, err := delta.ReadIndex(wire)
	if err != nil {
		return delta.Identity{}, fmt.Errorf("%s: %w", deltaName, err)
	}
	if err := atomicfile.Replaceable(out); err != nil {
		return delta.Identity{}, err
	}
	temp, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+"-")
	if err != nil {
		return delta.Identity{}, err
	}
	defer func() {
		_ = temp.Close()           // synced, or of no use
		_ = os.Remove(temp.Name()) // gone already if it was renamed
	}()
	if err := delta.Apply(ctx, old, wire, temp, opt); err != nil {
		return delta.Identity{}, fmt.Errorf("apply %s to %s: %w", deltaName, oldName, err)
	}
	if err := temp.Chmod(0o644); err != nil {
		return delta.Identity{}, err
	}
	if err := temp.Sync(); err != nil {
		return delta.Identity{}, err
	}
	if err := os.Rename(temp.Name(), out); err != nil {
		return delta.Identity{}, err
	}
	return index.New, atomicfile.SyncDir(filepath.Dir(out))
}

func (a *app) deltaVerify() *cobra.Command {
	var f deltaFlags
	c := &cobra.Command{
		Use:     "verify OLD DELTA",
		Short:   "Prove that a delta makes what it promises, without writing it",
		Example: "  ltspctl delta verify lab-41.squashfs 41-42.delta",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt, end, err := a.deltaOptions(f)
			if err != nil {
				return err
			}
			f, old, err := openSource(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			g, wire, err := openSource(args[1])
			if err != nil {
				return err
			}
			defer g.Close()
			index, err := delta.ReadIndex(wire)
			if err == nil {
				err = delta.Verify(cmd.Context(), old, wire, opt)
			}
			end()
			if err != nil {
				return refused(fmt.Errorf("%s: %w", args[1], err))
			}
			return a.print(identityView(index.New))
		},
	}
	f.register(c, "")
	return c
}

type identity struct {
	SizeBytes int64  `json:"size_bytes"`
	SHA256    string `json:"sha256"`
	Digest    string `json:"digest"`
}

func viewIdentity(i delta.Identity) identity {
	return identity{SizeBytes: i.Size, SHA256: fmt.Sprintf("%x", i.SHA256), Digest: i.Digest.String()}
}

func identityView(i delta.Identity) printer.View {
	v := viewIdentity(i)
	return fields(v, [][2]string{{"size", progress.Bytes(uint64(v.SizeBytes))}, {"sha256", v.SHA256}, {"digest", v.Digest}})
}

type deltaView struct {
	Old           identity         `json:"old"`
	New           identity         `json:"new"`
	DeltaBytes    int64            `json:"delta_bytes"`
	IndexBytes    int64            `json:"index_bytes"`
	Groups        int              `json:"groups"`
	Encoder       string           `json:"encoder,omitempty"`
	CopiedBytes   int64            `json:"copied_bytes"`
	ChangedBlocks int              `json:"changed_blocks"`
	ChangedBytes  int64            `json:"changed_content_bytes"`
	Sections      map[string]int64 `json:"sections"`
}

// statsView shows what a delta consists of.
func statsView(s *delta.Stats) printer.View {
	v := deltaView{
		Old: viewIdentity(s.Old), New: viewIdentity(s.New), DeltaBytes: s.DeltaBytes, IndexBytes: s.IndexBytes, Groups: s.Groups, Encoder: s.Encoder,
		CopiedBytes: s.CopyBytes, ChangedBlocks: s.ChangedBlocks, ChangedBytes: s.ChangedRawBytes, Sections: s.Sections(),
	}
	rows := [][2]string{
		{"old", fmt.Sprintf("%s  %s", progress.Bytes(uint64(v.Old.SizeBytes)), short(v.Old.SHA256))},
		{"new", fmt.Sprintf("%s  %s", progress.Bytes(uint64(v.New.SizeBytes)), short(v.New.SHA256))},
		{"delta", fmt.Sprintf("%s (%.2f %% of the new image)", progress.Bytes(uint64(v.DeltaBytes)), 100*float64(v.DeltaBytes)/float64(v.New.SizeBytes))},
		{"index", progress.Bytes(uint64(v.IndexBytes))}, {"groups", fmt.Sprint(v.Groups)}, {"encoder", v.Encoder},
		{"copied from old", progress.Bytes(uint64(v.CopiedBytes))}, {"changed content", progress.Bytes(uint64(v.ChangedBytes))},
	}
	for _, name := range slices.Sorted(maps.Keys(v.Sections)) {
		rows = append(rows, [2]string{"  " + name, progress.Bytes(uint64(v.Sections[name]))})
	}
	return fields(v, rows)
}

// isImageFile tells whether an argument names a squashfs file rather than a version.
func isImageFile(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return strings.ContainsRune(name, filepath.Separator)
	}
	defer f.Close()
	magic := make([]byte, 4)
	_, err = io.ReadFull(f, magic)
	return err == nil && bytes.Equal(magic, []byte("hsqs"))
}
