package inspect

import (
	"errors"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// Why an image is refused. Each error of Inspect that is about the image, not about reading it, is an *Error and matches one of
// these, or squashfs.ErrNotSquashfs, ErrTruncated, ErrCorrupt or ErrCompressor.
var (
	ErrNoKernel      = errors.New("no kernel in the image")
	ErrKernelFormat  = errors.New("unknown kernel format")
	ErrNoModules     = errors.New("no modules for the kernel")
	ErrNoInit        = errors.New("no init in the image")
	ErrWrongArch     = errors.New("wrong architecture")
	ErrMissingDriver = errors.New("missing kernel driver")
)

// Error says why an image is refused and what to do about it.
type Error struct {
	// Err is the reason: one of the variables above or an error of squashfs.
	Err error
	// Detail says what was found, without repeating the reason.
	Detail string
	// Advice says what to do; never empty.
	Advice string
}

// Error implements error: reason, detail and advice in one line.
func (e *Error) Error() string {
	s := e.Err.Error()
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s + " (" + e.Advice + ")"
}

// Unwrap gives the reason.
func (e *Error) Unwrap() error { return e.Err }

func refuse(reason error, advice, detail string, args ...any) error {
	return &Error{Err: reason, Detail: fmt.Sprintf(detail, args...), Advice: advice}
}

// squashfsError adds advice to what the reader says about the file; errors of reading stay as they are.
func squashfsError(err error) error {
	for _, known := range []struct {
		reason error
		advice string
	}{
		{squashfs.ErrNotSquashfs, "give a squashfs file; a directory or a tarball becomes one by \"ltspctl image build\""},
		{squashfs.ErrTruncated, "the file was not copied to its end: copy or build it again"},
		{squashfs.ErrCorrupt, "the file is damaged: copy or build it again"},
		{squashfs.ErrCompressor, "build it again with -comp zstd"},
	} {
		if errors.Is(err, known.reason) {
			return &Error{Err: err, Advice: known.advice}
		}
	}
	return err
}
