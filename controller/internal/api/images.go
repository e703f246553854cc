package api

import (
	"context"
	"errors"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

type imageService struct {
	adminv1.UnimplementedImageServiceServer
	*Server
}

// holding counts satellites that should hold a version and those that do.
type holding struct{ wanted, verified uint32 }

// holdings counts for all versions that any site needs.
func (s *Server) holdings(ctx context.Context) (map[manifest.ID]holding, error) {
	bySite := make(map[string][]string)
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		satellites, err := tx.SatellitesOf("")
		for _, sat := range satellites {
			if !sat.Revoked {
				bySite[sat.Site] = append(bySite[sat.Site], sat.Name)
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	counts := make(map[manifest.ID]holding)
	for site, names := range bySite {
		desired, err := s.cfg.Link.Desired(ctx, site)
		if errors.Is(err, fleet.ErrNotFound) {
			continue // the site was deleted a moment ago
		}
		if err != nil {
			return nil, err
		}
		verified := s.verifiedAt(names)
		for _, v := range desired.Versions {
			h := counts[v.ID]
			h.wanted += uint32(len(names))
			h.verified += verified[v.ID]
			counts[v.ID] = h
		}
	}
	return counts, nil
}

// verifiedAt counts on how many of the satellites each version is verified.
func (s *Server) verifiedAt(satellites []string) map[manifest.ID]uint32 {
	counts := make(map[manifest.ID]uint32)
	for _, name := range satellites {
		status, _ := s.cfg.Link.Status(name)
		for _, v := range status.Versions {
			if v.State == fleet.Verified {
				counts[v.ID]++
			}
		}
	}
	return counts
}

func renderVersion(v fleet.Version, h holding) *adminv1.Version {
	return &adminv1.Version{
		Number: v.Number, Digest: hashBytes(v.Digest), Sha256: hashBytes(v.SHA256), SizeBytes: v.SizeBytes, TotalBytes: v.TotalBytes, Architecture: v.Arch,
		KernelRelease: v.Release, Os: v.OS, Note: v.Note, Source: v.Source, Publisher: v.Publisher, Created: stamp(v.Created), Id: v.ID[:],
		SatellitesWanted: h.wanted, SatellitesVerified: h.verified,
	}
}

func renderImage(i fleet.Image, versions []fleet.Version, counts map[manifest.ID]holding) *adminv1.Image {
	p := &adminv1.Image{Name: i.Name, Kind: string(i.Kind), Created: stamp(i.Created)}
	for _, name := range i.ChannelNames() {
		p.Channels = append(p.Channels, channelToProto(i.Channels[name]))
	}
	for _, v := range versions {
		p.Versions = append(p.Versions, renderVersion(v, counts[v.ID]))
	}
	return p
}

// PublishVersion implements the service.
func (s *imageService) PublishVersion(ctx context.Context, req *adminv1.PublishVersionRequest) (*adminv1.PublishVersionResponse, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	source, err := s.deltaSource(req.GetDelta())
	if err != nil {
		return nil, err
	}
	p, err := s.cfg.Catalog.Publish(ctx, c.actor(), c.id.Name, req.GetDraft(), req.GetChannels(), source)
	if err != nil {
		return nil, err
	}
	counts, err := s.holdings(ctx)
	if err != nil {
		return nil, err
	}
	return &adminv1.PublishVersionResponse{Image: p.Version.Image, Version: renderVersion(p.Version, counts[p.Version.ID]), Created: p.Created}, nil
}

// ListImages implements the service. The newest version of each image comes along.
func (s *imageService) ListImages(ctx context.Context, _ *adminv1.ListImagesRequest) (*adminv1.ListImagesResponse, error) {
	counts, err := s.holdings(ctx)
	if err != nil {
		return nil, err
	}
	resp := &adminv1.ListImagesResponse{}
	err = s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		images, err := tx.Images().List("")
		if err != nil {
			return err
		}
		for _, i := range images {
			versions, err := tx.VersionsOf(i.Name)
			if err != nil {
				return err
			}
			resp.Images = append(resp.Images, renderImage(i, versions[max(0, len(versions)-1):], counts))
		}
		return nil
	})
	return resp, err
}

// GetImage implements the service. Versions come in the order of their numbers.
func (s *imageService) GetImage(ctx context.Context, req *adminv1.GetImageRequest) (*adminv1.GetImageResponse, error) {
	counts, err := s.holdings(ctx)
	if err != nil {
		return nil, err
	}
	resp := &adminv1.GetImageResponse{}
	err = s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		i, err := tx.Images().Get(req.GetName())
		if err != nil {
			return err
		}
		versions, err := tx.VersionsOf(i.Name)
		resp.Image = renderImage(i, versions, counts)
		return err
	})
	return resp, err
}

// SetChannel implements the service.
func (s *imageService) SetChannel(ctx context.Context, req *adminv1.SetChannelRequest) (*adminv1.SetChannelResponse, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	channel, err := s.cfg.Catalog.SetChannel(ctx, c.actor(), req.GetImage(), req.GetChannel(), req.GetVersion())
	return &adminv1.SetChannelResponse{Channel: channelToProto(channel)}, err
}

// RollbackChannel implements the service.
func (s *imageService) RollbackChannel(ctx context.Context, req *adminv1.RollbackChannelRequest) (*adminv1.RollbackChannelResponse, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	channel, err := s.cfg.Catalog.Rollback(ctx, c.actor(), req.GetImage(), req.GetChannel())
	return &adminv1.RollbackChannelResponse{Channel: channelToProto(channel)}, err
}

// DeleteVersion implements the service.
func (s *imageService) DeleteVersion(ctx context.Context, req *adminv1.DeleteVersionRequest) (*adminv1.DeleteVersionResponse, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	freed, err := s.cfg.Catalog.DeleteVersion(ctx, c.actor(), req.GetImage(), req.GetVersion())
	return &adminv1.DeleteVersionResponse{FreedBytes: freed}, err
}

// DeleteImage implements the service.
func (s *imageService) DeleteImage(ctx context.Context, req *adminv1.DeleteImageRequest) (*adminv1.DeleteImageResponse, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	freed, err := s.cfg.Catalog.DeleteImage(ctx, c.actor(), req.GetName())
	return &adminv1.DeleteImageResponse{FreedBytes: freed}, err
}

// GetManifest implements the service.
func (s *imageService) GetManifest(ctx context.Context, req *adminv1.GetManifestRequest) (*adminv1.GetManifestResponse, error) {
	signed, err := s.cfg.Catalog.Manifest(ctx, req.GetImage(), req.GetVersion())
	return &adminv1.GetManifestResponse{Manifest: signed}, err
}
