package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// FetchPolicy gets the archive of a level and writes it to w. It is not verified here, but has the length that l says. ErrOffline, ErrNotAssigned, io.ErrUnexpectedEOF, an
// error of w or what gRPC said. A connection on which nothing arrives for Config.StallTimeout counts as broken.
func (c *Client) FetchPolicy(ctx context.Context, l config.PolicyLayer, w io.Writer) error {
	if err := c.fetchPolicy(ctx, l, w); err != nil {
		return fmt.Errorf("fetch policy of %s, version %d: %w", l.Scope, l.Number, err)
	}
	return nil
}

func (c *Client) fetchPolicy(ctx context.Context, l config.PolicyLayer, w io.Writer) error {
	conn := c.current()
	if conn == nil {
		return ErrOffline
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(c.cfg.StallTimeout, func() { cancel(fmt.Errorf("nothing arrived for %s", c.cfg.StallTimeout)) })
	defer stall.Stop()
	stream, err := satellitev1.NewLinkServiceClient(conn.bulk).GetPolicy(ctx, &satellitev1.GetPolicyRequest{Sha256: l.SHA256[:]})
	if err != nil {
		return refusal(cause(ctx, err))
	}
	left := l.Size
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && left > 0:
			return fmt.Errorf("the answer ends %d bytes early: %w", left, io.ErrUnexpectedEOF)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return refusal(cause(ctx, err))
		}
		if left -= int64(len(m.GetData())); left < 0 {
			return errors.New("the controller sent more than was asked for")
		}
		if _, err := w.Write(m.GetData()); err != nil {
			return err
		}
		stall.Reset(c.cfg.StallTimeout)
	}
}
