// Command bench-delta holds deltas against the best other tools, in one run, on images of a real distribution that package corpus
// builds: rsync, xdelta3, zstd --patch-from, casync and ltspctl move the same new versions to places that have the same old
// ones. It compares the results with the new images and prints what crossed the wire, and what both sides used.
//
// Building the corpus needs root, and measuring needs rsync, xdelta3, zstd and casync. Wire bytes of ltspctl contain the signed
// manifest and the framing of the transport; those of the others are the bare files, and rsync's its whole protocol.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/corpus"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench-delta:", err)
		}
		os.Exit(1)
	}
}

var errMissed = errors.New("a goal was missed")

// options are the flags.
type options struct {
	variant, steps, tools, cache, ltspctl, manifest, format string
	buildOnly, reusePeers, strict                           bool
}

func parseFlags(args []string, messages io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench-delta", flag.ContinueOnError)
	flags.SetOutput(messages)
	flags.StringVar(&o.variant, "variant", "small", "corpus: small or desktop")
	flags.StringVar(&o.steps, "steps", "w,v2,v3,v4,w-gzip", "updates to measure")
	flags.StringVar(&o.tools, "tools", "rsync,casync,zstd,xdelta3,ltsp", "tools to run")
	flags.StringVar(&o.cache, "cache", ".build/cache/corpus", "directory of the corpus, made when missing")
	flags.StringVar(&o.ltspctl, "ltspctl", ".build/bin/ltspctl", "program that makes and applies deltas")
	flags.StringVar(&o.manifest, "manifest", "", "signed manifest without chunk lists, whose size counts as wire bytes (default: a usual one)")
	flags.StringVar(&o.format, "o", "table", "output: table or json")
	flags.BoolVar(&o.buildOnly, "build", false, "only build the images of the updates")
	flags.BoolVar(&o.reusePeers, "reuse-peers", false, "take other tools' figures from earlier runs on the same images, where there are any")
	flags.BoolVar(&o.strict, "strict", false, "end with an error when a goal is missed")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.format != "table" && o.format != "json" {
		return o, fmt.Errorf("output %q: want table or json", o.format)
	}
	return o, nil
}

func run(ctx context.Context, args []string, out, messages io.Writer) error {
	o, err := parseFlags(args, messages)
	if err != nil {
		return err
	}
	b, err := newBench(o, messages)
	if err != nil {
		return err
	}
	records, err := corpus.Build(ctx, b.corpus, b.variant, b.images()...)
	if err != nil || o.buildOnly {
		return err
	}
	found, err := b.measure(ctx, records)
	if err != nil {
		return err
	}
	if o.format == "json" {
		err = found.writeJSON(out)
	} else {
		err = found.writeTable(out)
	}
	if err == nil && o.strict && found.missed() {
		return errMissed
	}
	return err
}

// bench is one run.
type bench struct {
	corpus  corpus.Config
	variant corpus.Variant
	steps   []transition
	tools   []tool
	peers   peerCache
	log     func(format string, args ...any)
}

func newBench(o options, messages io.Writer) (*bench, error) {
	b := &bench{log: func(format string, args ...any) {
		fmt.Fprintf(messages, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
	}}
	var err error
	if b.variant, err = corpus.VariantByName(o.variant); err != nil {
		return nil, err
	}
	for _, path := range []*string{&o.cache, &o.ltspctl, &o.manifest} { // tools run in directories of their own
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
	}
	b.corpus = corpus.Config{CacheDir: o.cache, Log: b.log}
	b.peers = peerCache{dir: filepath.Join(o.cache, b.variant.Name, "peers"), read: o.reusePeers}
	if b.steps, err = selectTransitions(o.steps); err != nil {
		return nil, err
	}
	all := append(append([]tool{rsync{}, casync{}}, patchers()...), ours{ltspctl: o.ltspctl, manifest: o.manifest})
	if b.tools, err = selectTools(all, o.tools); err != nil || o.buildOnly {
		return b, err
	}
	return b, b.checkPrograms(o.ltspctl)
}

// checkPrograms looks for what the tools need before hours are spent.
func (b *bench) checkPrograms(ltspctl string) error {
	var missing []string
	for _, t := range b.tools {
		program := t.Name()
		if program == (ours{}).Name() {
			if _, err := exec.LookPath(ltspctl); err != nil {
				return fmt.Errorf("no program %s: run make build", ltspctl)
			}
			continue
		}
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program) // Debian's packages have the programs' names
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing programs: run apt-get install %s", strings.Join(missing, " "))
	}
	return nil
}

// selectTransitions returns the transitions with the IDs in names, in the order of the corpus.
func selectTransitions(names string) ([]transition, error) {
	wanted := strings.Split(names, ",")
	var list []transition
	var known []string
	for _, t := range transitions() {
		known = append(known, t.ID)
		if i := slices.Index(wanted, t.ID); i >= 0 {
			list = append(list, t)
			wanted = slices.Delete(wanted, i, i+1)
		}
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("unknown step %q: there are %s", wanted[0], strings.Join(known, ", "))
	}
	return list, nil
}

// images lists what the transitions need, each once.
func (b *bench) images() []corpus.Image {
	var list []corpus.Image
	for _, t := range b.steps {
		for _, v := range []string{t.Old, t.New} {
			if i := (corpus.Image{Version: v, Compressor: t.Compressor}); !slices.Contains(list, i) {
				list = append(list, i)
			}
		}
	}
	return list
}

// measure runs every tool on every transition, one at a time. records belong to images.
func (b *bench) measure(ctx context.Context, records []corpus.Record) (*report, error) {
	ids := map[corpus.Image]fileID{}
	for i, image := range b.images() {
		ids[image] = fileID{Size: records[i].Size, SHA256: records[i].SHA256}
	}
	found := &report{Variant: b.variant.Name}
	for _, step := range b.steps {
		old, new := corpus.Image{Version: step.Old, Compressor: step.Compressor}, corpus.Image{Version: step.New, Compressor: step.Compressor}
		p := pair{old: b.corpus.Path(b.variant, old), new: b.corpus.Path(b.variant, new)}
		for _, t := range b.tools {
			r, err := b.measureTool(ctx, t, step, p, ids[old], ids[new])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", step, err)
			}
			found.Rows = append(found.Rows, row{Transition: step.ID, Tool: t.Name(), Full: ids[new].Size, result: r})
		}
	}
	found.compare()
	if b.variant.Name == corpus.Desktop().Name {
		found.Goals = judge(found.results(), goals())
	}
	return found, nil
}

func (b *bench) measureTool(ctx context.Context, t tool, step transition, p pair, old, new fileID) (result, error) {
	kept, err := b.peers.path(ctx, t, old, new)
	if err != nil {
		return result{}, err
	}
	if r, ok, err := b.peers.load(kept); err != nil || ok {
		return r, err
	}
	b.log("%s %s: running", step, t.Name())
	r, err := runTool(ctx, t, p, new, filepath.Join(b.corpus.CacheDir, b.variant.Name))
	if err != nil {
		return result{}, err
	}
	b.log("%s %s: %d bytes after %.0f s", step, t.Name(), r.Wire, r.Seconds)
	return r, b.peers.save(kept, t, old, new, r)
}
