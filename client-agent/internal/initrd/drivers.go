package initrd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/modules"
)

// fixedParams are what the agent wants of a module; the command line can change it.
var fixedParams = map[string]string{"nbd": "nbds_max=1 max_part=0"}

// maxRounds bounds how often new devices that a driver made visible are looked at: a bus behind a bus behind a bus.
const maxRounds = 8

// loadModules loads drivers for all devices that are there, then what the root needs.
func (b *boot) loadModules(context.Context) error {
	dir := filepath.Join("/lib/modules", b.release)
	index, err := modules.ReadIndex(os.DirFS(dir))
	if err != nil {
		return fmt.Errorf("%w (the initrd must be made for kernel %s)", err, b.release)
	}
	b.loader = modules.NewLoader(modules.Config{
		Index: index, Insert: modules.Inserter(dir, fixedParams), Params: b.args.Module,
		Blacklist: b.args.List("modprobe.blacklist"), Log: b.log,
	})
	b.scanner = modules.NewScanner(sysPath)
	answerDevices(b.loader.Answer, b.scanner.New)
	return loadRoot(b.loader, b.cfg.Verity, func(name string) bool {
		_, err := os.Stat(filepath.Join(sysPath, "module", strings.ReplaceAll(name, "-", "_")))
		return err == nil
	})
}

// answerDevices loads drivers until no driver makes a new device visible. What needs longer, such as USB, is answered while the NIC is waited for.
func answerDevices(answer func(modalias string) int, newDevices func() []string) {
	for range maxRounds {
		loaded := 0
		for _, alias := range newDevices() {
			loaded += answer(alias)
		}
		if loaded == 0 {
			return
		}
	}
}

// moduleLoader is what loadRoot needs of modules.Loader.
type moduleLoader interface {
	Load(name string) error
	Answer(modalias string) int
}

// loadRoot loads what the root is made of. Present tells whether the kernel has a module already, loaded or built in.
func loadRoot(l moduleLoader, verity bool, present func(string) bool) error {
	names := []string{"nbd", "squashfs", "overlay"}
	if verity {
		l.Answer("crypto-sha256") // all there are, the fastest wins; one is usually built in
		names = append(names, "dm-verity")
	}
	for _, name := range names {
		err := l.Load(name)
		if errors.Is(err, modules.ErrNotFound) && present(name) {
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}
