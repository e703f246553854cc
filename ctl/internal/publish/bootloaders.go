package publish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// BootloadersImage is the name of the image whose versions are sets of boot loaders.
const BootloadersImage = "bootloaders"

// bootloaderFiles are the boot loaders that satellites know how to offer, each with what it is for.
var bootloaderFiles = []struct{ name, purpose string }{
	{"undionly.kpxe", "BIOS"},
	{"ipxe.pxe", "BIOS with iPXE's own drivers"},
	{"snponly.efi", "UEFI"},
	{"ipxe.efi", "UEFI with iPXE's own drivers"},
	{"snponly-arm64.efi", "UEFI on arm64"},
}

// ErrNoBootloaders says that a directory lacks what every site needs.
var ErrNoBootloaders = errors.New("boot loaders are missing")

// PrepareBootloaders makes a version of the boot loaders in dir, such as /usr/lib/ipxe. Files of other names are left out.
func PrepareBootloaders(ctx context.Context, dir, note string) (*Prepared, error) {
	p := &Prepared{Draft: &manifest.Manifest{Kind: manifest.Bootloaders, Name: BootloadersImage, Note: note, Source: dir}}
	var have []string
	for _, b := range bootloaderFiles {
		path := filepath.Join(dir, b.name)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := p.addFile(ctx, b.name, path); err != nil {
			return nil, errors.Join(err, p.Close())
		}
		have = append(have, b.name)
	}
	for _, needed := range []string{"undionly.kpxe", "snponly.efi"} {
		if !strings.Contains(" "+strings.Join(have, " ")+" ", " "+needed+" ") {
			return nil, errors.Join(fmt.Errorf("%w: %s has no %s; run: apt-get install ipxe", ErrNoBootloaders, dir, needed), p.Close())
		}
	}
	return p, nil
}
