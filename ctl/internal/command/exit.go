package command

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/contexts"
)

// Exit codes of ltspctl. docs/ltspctl.md has the same table.
const (
	ExitOK          = 0   // done
	ExitFailed      = 1   // any other failure
	ExitUsage       = 2   // wrong flags or arguments
	ExitNotFound    = 3   // the object does not exist
	ExitDenied      = 4   // no credential, or one that may not do this
	ExitConflict    = 5   // the present state forbids it: it exists, is in use, or was changed by somebody else
	ExitUnavailable = 6   // the controller does not answer
	ExitInvalid     = 7   // a value or an image was refused
	ExitInterrupted = 130 // Ctrl-C
)

// usageError marks errors of the command line itself.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// invalidError marks input that this program refused itself, such as a bad image.
type invalidError struct{ error }

func (e invalidError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

var exitByStatus = map[codes.Code]int{
	codes.NotFound:           ExitNotFound,
	codes.PermissionDenied:   ExitDenied,
	codes.Unauthenticated:    ExitDenied,
	codes.AlreadyExists:      ExitConflict,
	codes.FailedPrecondition: ExitConflict,
	codes.Aborted:            ExitConflict,
	codes.Unavailable:        ExitUnavailable,
	codes.DeadlineExceeded:   ExitUnavailable,
	codes.InvalidArgument:    ExitInvalid,
	codes.DataLoss:           ExitInvalid,
}

func exitCode(ctx context.Context, err error) int {
	if ctx.Err() != nil {
		return ExitInterrupted
	}
	var usage usageError
	var invalid invalidError
	switch {
	case errors.As(err, &usage), isCobraUsage(err):
		return ExitUsage
	case errors.As(err, &invalid):
		return ExitInvalid
	case errors.Is(err, contexts.ErrNoFile), errors.Is(err, contexts.ErrNoContext), errors.Is(err, contexts.ErrExposed):
		return ExitDenied
	case errors.Is(err, context.DeadlineExceeded):
		return ExitUnavailable
	}
	if s, ok := statusOf(err); ok {
		if code, known := exitByStatus[s.Code()]; known {
			return code
		}
	}
	return ExitFailed
}

// isCobraUsage recognises the usage errors that cobra makes without passing them through Args or the flag error function.
func isCobraUsage(err error) bool {
	text := err.Error()
	return strings.HasPrefix(text, "unknown command") || strings.HasPrefix(text, "required flag(s)")
}

func statusOf(err error) (*status.Status, bool) {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus(), true
	}
	return nil, false
}

// message says an error in one line: the chain that this program built, with the controller's own words in place of gRPC's wrapping.
func message(err error) string {
	s, ok := statusOf(err)
	if !ok {
		return err.Error()
	}
	words := s.Message()
	if s.Code() == codes.Unavailable {
		words = "the controller does not answer: " + words
	}
	return strings.Replace(err.Error(), s.Err().Error(), words, 1)
}
