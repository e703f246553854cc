package command

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/progress"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/publish"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
)

// remoteStore is the controller's chunk service as a publish.Store.
type remoteStore struct{ api chunkv1.ChunkServiceClient }

func (s remoteStore) FindMissing(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error) {
	request := &chunkv1.FindMissingRequest{}
	for i := range ids {
		request.Ids = append(request.Ids, ids[i][:])
	}
	r, err := s.api.FindMissing(ctx, request)
	if err != nil {
		return nil, err
	}
	var missing []chunk.ID
	for _, raw := range r.GetMissing() {
		if len(raw) != len(chunk.ID{}) {
			return nil, fmt.Errorf("the controller named a chunk by %d bytes", len(raw))
		}
		missing = append(missing, chunk.ID(raw))
	}
	return missing, nil
}

func (s remoteStore) Put(ctx context.Context, next func() (chunk.ID, []byte, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.api.PutChunks(ctx)
	if err != nil {
		return err
	}
	for {
		id, data, err := next()
		if errors.Is(err, io.EOF) {
			_, err := stream.CloseAndRecv()
			return err
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&chunkv1.PutChunksRequest{Id: id[:], Data: data}); err != nil {
			if errors.Is(err, io.EOF) { // the controller ended the stream: its status says why
				_, err = stream.CloseAndRecv()
			}
			return err
		}
	}
}

// upload sends a prepared version and publishes it.
func (a *app) upload(ctx context.Context, conn *grpc.ClientConn, p *publish.Prepared, channels []string) error {
	bar := a.progress().Bar("uploading", 0)
	var meter publish.Meter
	if bar != nil {
		meter = bar
	}
	stats, err := publish.Upload(ctx, p, remoteStore{chunkv1.NewChunkServiceClient(conn)}, meter)
	bar.Done()
	if err != nil {
		return fmt.Errorf("%w (what has arrived is kept: run the same command again to go on)", err)
	}
	draft, err := p.Draft.Encode()
	if err != nil {
		return err
	}
	a.progress().Step("the controller checks and signs the version")
	r, err := adminv1.NewImageServiceClient(conn).PublishVersion(ctx, &adminv1.PublishVersionRequest{Draft: draft, Channels: channels})
	if err != nil {
		return err
	}
	return a.printPublished(r, stats)
}

type publishedView struct {
	Image     string           `json:"image"`
	Version   imageVersionView `json:"version"`
	Created   bool             `json:"created"`
	SentBytes uint64           `json:"sent_bytes"`
	Bytes     uint64           `json:"bytes"`
}

func (a *app) printPublished(r *adminv1.PublishVersionResponse, stats publish.UploadStats) error {
	v := publishedView{Image: r.GetImage(), Version: viewVersion(r.GetVersion()), Created: r.GetCreated(), SentBytes: stats.SentBytes, Bytes: stats.Bytes}
	name := fmt.Sprintf("%s@%d", v.Image, v.Version.Number)
	state := "published"
	if !v.Created {
		state = "already published"
	}
	return a.print(printer.View{Value: v, Columns: []string{"VERSION", "STATE", "SENT", "OF", "ID"},
		Rows: [][]string{{name, state, progress.Bytes(v.SentBytes), progress.Bytes(v.Bytes), short(v.Version.ID)}}})
}
