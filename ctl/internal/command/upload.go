package command

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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

// upload sends a prepared version and publishes it. If the controller does not have the base of a delta, the chunks are sent instead.
func (a *app) upload(ctx context.Context, conn *grpc.ClientConn, p *publish.Prepared, channels []string) error {
	stats, err := a.send(ctx, conn, p)
	if err != nil {
		return err
	}
	r, err := a.publishDraft(ctx, conn, p, channels)
	if p.Delta != nil && status.Code(err) == codes.NotFound {
		a.progress().Step("%s; sending the image's chunks instead", status.Convert(err).Message())
		p.Delta = nil
		if stats, err = a.send(ctx, conn, p); err != nil {
			return err
		}
		r, err = a.publishDraft(ctx, conn, p, channels)
	}
	if err != nil {
		return err
	}
	return a.printPublished(r, stats)
}

func (a *app) send(ctx context.Context, conn *grpc.ClientConn, p *publish.Prepared) (publish.UploadStats, error) {
	bar := a.progress().Bar("uploading", 0)
	var meter publish.Meter
	if bar != nil {
		meter = bar
	}
	stats, err := publish.Upload(ctx, p, remoteStore{chunkv1.NewChunkServiceClient(conn)}, meter)
	bar.Done()
	if err != nil {
		return stats, fmt.Errorf("%w (what has arrived is kept: run the same command again to go on)", err)
	}
	return stats, nil
}

func (a *app) publishDraft(ctx context.Context, conn *grpc.ClientConn, p *publish.Prepared, channels []string) (*adminv1.PublishVersionResponse, error) {
	draft, err := p.EncodeDraft()
	if err != nil {
		return nil, err
	}
	request := &adminv1.PublishVersionRequest{Draft: draft, Channels: channels}
	if d := p.Delta; d != nil {
		request.Delta = &adminv1.DeltaSource{BaseSha256: d.BaseSHA256[:], Sha256: d.SHA256[:]}
		for i := range d.Chunks {
			request.Delta.Chunks = append(request.Delta.Chunks, &adminv1.DeltaChunk{Id: d.Chunks[i].ID[:], Size: d.Chunks[i].Size})
		}
	}
	a.progress().Step("the controller checks and signs the version")
	return adminv1.NewImageServiceClient(conn).PublishVersion(ctx, request)
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
