package api

import (
	"cmp"
	"context"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

// Bounds of CommandClients.
const (
	commandCalls  = 16   // calls at once
	commandWindow = 128  // clients of one call that are waited for at once
	auditClients  = 1000 // clients that an audit entry names
)

// name is what people call the client: as it is configured, else as it calls itself.
func (c seenClient) name() string {
	if c.config != nil && c.config.Name != "" {
		return c.config.Name
	}
	if c.report != nil {
		return c.report.Hostname
	}
	return ""
}

// room is the room whose policy applies to the client. subnets are its site's.
func (c seenClient) room(subnets []fleet.Subnet) string {
	own := ""
	if c.config != nil {
		own = c.config.Room
	}
	return fleet.RoomOf(own, c.address(), subnets)
}

// CommandClients implements the service.
func (s *clientService) CommandClients(req *adminv1.CommandClientsRequest, stream grpc.ServerStreamingServer[adminv1.CommandClientsResponse]) error {
	command := fleet.Command{Kind: fleet.CommandKind(req.GetKind()), Args: req.GetArgs(), Text: req.GetText(), Timeout: duration(req.GetTimeout())}
	if err := command.Check(); err != nil {
		return err
	}
	if !s.commands.TryAcquire(1) {
		s.metrics.limited.WithLabelValues("command").Inc()
		return status.Error(codes.ResourceExhausted, "too many commands at once; try again later")
	}
	defer s.commands.Release(1)
	ctx, cancel := s.onClosing(stream.Context())
	defer cancel()
	var targets []seenClient
	// Whom it reaches is decided in the transaction that writes the audit entry, which is there before the first client hears of it.
	err := s.update(ctx, "client."+string(command.Kind), commandObject(req), func(tx *store.Tx) (err error) {
		if targets, err = s.targets(tx, req, command.Kind); err != nil {
			return err
		}
		return tx.Note(store.KindCommand, string(command.Kind), newAuditCommand(command, targets))
	})
	if err != nil {
		return err
	}
	s.cfg.Log.Info("clients are commanded", "command", command.Kind, "clients", len(targets))
	answers := make(chan *adminv1.CommandClientsResponse)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(answers)
		return s.commandAll(ctx, command, targets, answers)
	})
	group.Go(func() error {
		for a := range answers {
			if err := stream.Send(a); err != nil {
				return err
			}
		}
		return nil
	})
	return group.Wait()
}

// commandAll commands some clients at once and passes each answer on as it comes.
func (s *Server) commandAll(ctx context.Context, command fleet.Command, targets []seenClient, answers chan<- *adminv1.CommandClientsResponse) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(commandWindow)
	for _, t := range targets {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			command := command
			command.MAC = t.mac
			result, err := s.cfg.Link.Command(ctx, t.site, command)
			if err != nil {
				return err
			}
			answer := &adminv1.CommandClientsResponse{Mac: string(t.mac), Name: t.name(), Error: result.Error, Output: result.Output, Exit: result.Exit}
			select {
			case answers <- answer:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}
	return group.Wait()
}

// commandObject is what an audit entry says of the targets.
func commandObject(req *adminv1.CommandClientsRequest) string {
	if len(req.GetClients()) == 1 {
		return req.GetClients()[0]
	}
	object := req.GetSite()
	if req.GetRoom() != "" {
		object += "/" + req.GetRoom()
	}
	return cmp.Or(object, "clients")
}

// auditCommand is what an audit entry tells of a command.
type auditCommand struct {
	Kind    fleet.CommandKind `json:"kind"`
	Args    []string          `json:"args,omitempty"`
	Text    string            `json:"text,omitempty"`
	Timeout fleet.Duration    `json:"timeout"`
	Total   int               `json:"clients_total"`
	Clients []fleet.MAC       `json:"clients"` // the first auditClients
}

func newAuditCommand(c fleet.Command, targets []seenClient) auditCommand {
	a := auditCommand{Kind: c.Kind, Args: c.Args, Text: c.Text, Timeout: c.Timeout, Total: len(targets)}
	for _, t := range targets[:min(len(targets), auditClients)] {
		a.Clients = append(a.Clients, t.mac)
	}
	return a
}

// targets are the clients that a request means, each once. Their sites must allow the command.
func (s *Server) targets(tx *store.Tx, req *adminv1.CommandClientsRequest, kind fleet.CommandKind) ([]seenClient, error) {
	if req.GetSite() == "" && (len(req.GetClients()) == 0 || req.GetRoom() != "") {
		return nil, fleet.Errorf(fleet.ErrInvalid, "name clients, or a site, or a room of a site")
	}
	if err := siteIfAny(tx, req.GetSite()); err != nil {
		return nil, err
	}
	list, err := s.clients(tx, req.GetSite())
	if err != nil {
		return nil, err
	}
	if list, err = inRoom(tx, list, req.GetSite(), req.GetRoom()); err != nil {
		return nil, err
	}
	if names := req.GetClients(); len(names) > 0 {
		if list, err = pickAll(list, names); err != nil {
			return nil, err
		}
	}
	if len(list) == 0 {
		return nil, fleet.Errorf(fleet.ErrNotFound, "there is no client")
	}
	checked := make(map[string]bool)
	for _, c := range list {
		if checked[c.site] {
			continue
		}
		checked[c.site] = true
		site, err := tx.Sites().Get(c.site)
		if err != nil {
			return nil, err
		}
		if err := site.CheckCommand(kind); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// inRoom keeps the clients of a room of a site; all if it is empty.
func inRoom(tx *store.Tx, list []seenClient, site, room string) ([]seenClient, error) {
	if room == "" {
		return list, nil
	}
	subnets, err := tx.SubnetsOf(site)
	if err != nil {
		return nil, err
	}
	var kept []seenClient
	for _, c := range list {
		if c.room(subnets) == room {
			kept = append(kept, c)
		}
	}
	return kept, nil
}

func pickAll(list []seenClient, names []string) ([]seenClient, error) {
	if len(names) > fleet.MaxClients {
		return nil, fleet.Errorf(fleet.ErrInvalid, "%d clients, at most %d may be named", len(names), fleet.MaxClients)
	}
	var picked []seenClient
	seen := make(map[fleet.MAC]bool)
	for _, name := range names {
		c, err := pick(list, name)
		if err != nil {
			return nil, err
		}
		if !seen[c.mac] {
			seen[c.mac] = true
			picked = append(picked, c)
		}
	}
	return picked, nil
}

// Bounds of ListClientEvents.
const (
	defaultEvents = 100
	maxEvents     = 1000
)

// ListClientEvents implements the service.
func (s *clientService) ListClientEvents(ctx context.Context, req *adminv1.ListClientEventsRequest) (*adminv1.ListClientEventsResponse, error) {
	limit := int(cmp.Or(req.GetLimit(), defaultEvents))
	if limit > maxEvents {
		return nil, fleet.Errorf(fleet.ErrInvalid, "limit %d: want 1 to %d", limit, maxEvents)
	}
	names := make(map[string]string)
	var only fleet.MAC
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		if err := siteIfAny(tx, req.GetSite()); err != nil {
			return err
		}
		list, err := s.clients(tx, req.GetSite())
		if err != nil {
			return err
		}
		for _, c := range list {
			names[c.site+"/"+string(c.mac)] = c.name()
		}
		if req.GetClient() != "" {
			only, err = eventClient(list, req.GetClient())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	resp := &adminv1.ListClientEventsResponse{}
	for _, e := range s.cfg.Link.Events(req.GetSite()) {
		if len(resp.Events) >= limit {
			break
		}
		if only == "" || e.MAC == only {
			resp.Events = append(resp.Events, eventToProto(e, names[e.Site+"/"+string(e.MAC)]))
		}
	}
	return resp, nil
}

// eventClient finds the client whose events are wanted; one that is named by its MAC address need not be known any more.
func eventClient(list []seenClient, wanted string) (fleet.MAC, error) {
	if mac, err := fleet.ParseMAC(wanted); err == nil {
		return mac, nil
	}
	c, err := pick(list, wanted)
	return c.mac, err
}
