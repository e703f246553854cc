package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

// maxDesiredBytes bounds one message of the stream: a desired state with some 100,000 clients.
const maxDesiredBytes = 64 << 20

// errRenewed ends a session so that the next one uses the new certificate.
var errRenewed = errors.New("the certificate was renewed")

// session is one connection from dial to loss. answered tells whether the controller sent a desired state.
func (c *Client) session(ctx context.Context) (answered bool, err error) {
	l, refused, err := c.dial()
	if err != nil {
		return false, err
	}
	defer l.close()
	if err := c.renewIfDue(ctx, l); err != nil {
		return false, c.explain(err, refused())
	}
	answered, err = c.stream(ctx, l)
	if answered || ctx.Err() != nil || errors.Is(err, errRenewed) {
		return answered, err
	}
	if certificateRefused(err) && c.cfg.Identity.Pending() {
		c.log.Warn("the controller refuses the renewed certificate, the old one is used again", "err", err)
		if err := c.cfg.Identity.Reject(); err != nil {
			return false, err
		}
	}
	return false, c.explain(err, refused())
}

// certificateRefused tells that the controller did not like our certificate: it said so, or ended the handshake with an alert, of which
// gRPC passes on the text only.
func certificateRefused(err error) bool {
	return status.Code(err) == codes.Unauthenticated || strings.Contains(err.Error(), "remote error: tls:")
}

type linkStream = grpc.BidiStreamingClient[satellitev1.ConnectRequest, satellitev1.ConnectResponse]

// stream opens the stream, says hello and works until the stream ends.
func (c *Client) stream(ctx context.Context, l *link) (answered bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(firstMessage, func() { cancel(fmt.Errorf("it did not answer within %s", firstMessage)) })
	defer silent.Stop()
	stream, err := satellitev1.NewLinkServiceClient(l.control).Connect(ctx, grpc.MaxCallRecvMsgSize(maxDesiredBytes))
	if err == nil {
		err = stream.Send(&satellitev1.ConnectRequest{Message: &satellitev1.ConnectRequest_Hello{
			Hello: &satellitev1.Hello{Build: c.cfg.Build, Revision: c.cfg.Revision()}}})
	}
	if err != nil {
		// The reason why a stream broke comes with Recv, not Send.
		if stream != nil {
			if _, recvErr := stream.Recv(); recvErr != nil {
				err = recvErr
			}
		}
		return false, cause(ctx, err)
	}
	first, err := stream.Recv()
	if err != nil {
		return false, cause(ctx, err)
	}
	silent.Stop()
	c.accepted(l)
	c.take(first)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.receive(stream) })
	g.Go(func() error { defer cancel(nil); return c.send(ctx, stream, l) })
	return true, g.Wait()
}

// cause prefers the reason for which we ended the context.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && !errors.Is(c, context.Canceled) {
		return c
	}
	return err
}

// accepted notes that the controller answered: the certificate is good.
func (c *Client) accepted(l *link) {
	if c.cfg.Identity.Pending() {
		c.problem("certificate", "store the renewed certificate", c.cfg.Identity.Promote())
	}
	c.cfg.Problem("upstream", "")
	c.cfg.Problem("clock", "")
	c.metrics.answered()
	c.log.Info("connected to the controller", "addr", c.cfg.Identity.Controller())
	c.cfg.Clients.MarkAll()
	c.setLink(l)
}

func (c *Client) problem(key, what string, err error) {
	if err == nil {
		c.cfg.Problem(key, "")
		return
	}
	c.log.Error(what, "err", err)
	c.cfg.Problem(key, fmt.Sprintf("%s: %v", what, err))
}

func (c *Client) receive(stream linkStream) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("the stream ended: %w", err)
		}
		c.take(m)
	}
}

func (c *Client) take(m *satellitev1.ConnectResponse) {
	if p := m.GetCommand(); p != nil {
		c.takeCommand(p)
	}
	p := m.GetDesired()
	if p == nil {
		return // another message, maybe one of a newer controller
	}
	d, problems := desired(p)
	text := ""
	for _, line := range problems {
		c.log.Warn("part of the desired state is unusable", "err", line)
		text = line
	}
	if len(problems) > 1 {
		text = fmt.Sprintf("%s (and %d more, see the log)", text, len(problems)-1)
	}
	c.cfg.Problem("desired", text)
	c.cfg.Desired(d)
}

func (c *Client) takeCommand(p *satellitev1.ClientCommand) {
	cmd, err := clientCommand(p)
	if err != nil {
		c.log.Warn("command of the controller is unusable", "err", err)
		return
	}
	c.cfg.Command(cmd)
}

// send reports until the stream ends or the certificate was renewed.
func (c *Client) send(ctx context.Context, stream linkStream, l *link) error {
	tick := time.NewTicker(c.cfg.ReportInterval)
	defer tick.Stop()
	renew := time.NewTicker(time.Minute)
	defer renew.Stop()
	c.dropResults()
	if err := c.report(stream); err != nil {
		return err
	}
	// What happened while the controller was away has no notification of its own any more.
	if err := c.sendEvents(stream); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-renew.C:
			if err := c.renewIfDue(ctx, l); err != nil {
				return err
			}
		case <-tick.C:
			if err := c.report(stream); err != nil {
				return err
			}
		case <-c.changed:
			if err := c.reportSoon(ctx, stream); err != nil {
				return err
			}
			tick.Reset(c.cfg.ReportInterval)
		case t := <-c.cfg.Traces:
			if err := stream.Send(t.proto()); err != nil {
				return fmt.Errorf("send boot trace: %w", err)
			}
		case r := <-c.cfg.Results:
			if err := stream.Send(resultProto(r)); err != nil {
				return fmt.Errorf("send result of a command: %w", err)
			}
		case <-c.cfg.Events.Notify():
			if err := c.sendEvents(stream); err != nil {
				return err
			}
		case <-c.cfg.Clients.Notify():
			if err := c.reportClients(stream); err != nil {
				return err
			}
		}
	}
}

// dropResults takes away the results of commands whose stream has ended.
func (c *Client) dropResults() {
	for {
		select {
		case <-c.cfg.Results:
		default:
			return
		}
	}
}

func (c *Client) sendEvents(stream linkStream) error {
	for {
		events := c.cfg.Events.Pending()
		if len(events) == 0 {
			return nil
		}
		events = events[:min(len(events), maxClientEvents)]
		if err := stream.Send(eventsProto(events)); err != nil {
			return fmt.Errorf("send client events: %w", err)
		}
		c.cfg.Events.Sent(len(events))
		c.metrics.clientEvents(len(events))
	}
}

// reportSoon waits a moment for further changes before it reports.
func (c *Client) reportSoon(ctx context.Context, stream linkStream) error {
	select {
	case <-time.After(reportGap):
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-c.changed:
	default:
	}
	return c.report(stream)
}

func (c *Client) report(stream linkStream) error {
	s := c.cfg.Status()
	err := stream.Send(&satellitev1.ConnectRequest{Message: &satellitev1.ConnectRequest_Status{Status: s.proto(c.cfg.Build, c.cfg.Now())}})
	if err != nil {
		return fmt.Errorf("send report: %w", err)
	}
	return nil
}

func (c *Client) reportClients(stream linkStream) error {
	reports := c.cfg.Clients.Pending()
	for len(reports) > 0 {
		n := min(len(reports), maxClientReports)
		batch := &satellitev1.ClientReports{}
		for i := range reports[:n] {
			batch.Reports = append(batch.Reports, reports[i].proto())
		}
		if err := stream.Send(&satellitev1.ConnectRequest{Message: &satellitev1.ConnectRequest_Clients{Clients: batch}}); err != nil {
			return fmt.Errorf("send client reports: %w", err)
		}
		c.metrics.clientReports(n)
		reports = reports[n:]
	}
	return nil
}
