package command

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/progress"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

type imageView struct {
	Name     string             `json:"name"`
	Kind     string             `json:"kind"`
	Channels []channelView      `json:"channels"`
	Versions []imageVersionView `json:"versions"`
	Created  *time.Time         `json:"created,omitempty"`
}

type channelView struct {
	Name     string     `json:"name"`
	Version  uint64     `json:"version"`
	Previous uint64     `json:"previous,omitempty"`
	Changed  *time.Time `json:"changed,omitempty"`
}

type imageVersionView struct {
	Number       uint64     `json:"number"`
	ID           string     `json:"id"`
	Digest       string     `json:"digest,omitempty"`
	SHA256       string     `json:"sha256,omitempty"`
	SizeBytes    uint64     `json:"size_bytes"`
	TotalBytes   uint64     `json:"total_bytes"`
	Architecture string     `json:"architecture,omitempty"`
	Kernel       string     `json:"kernel,omitempty"`
	OS           string     `json:"os,omitempty"`
	Note         string     `json:"note,omitempty"`
	Source       string     `json:"source,omitempty"`
	Publisher    string     `json:"publisher,omitempty"`
	Created      *time.Time `json:"created,omitempty"`
	Verified     uint32     `json:"satellites_verified"`
	Wanted       uint32     `json:"satellites_wanted"`
}

func viewImage(i *adminv1.Image) imageView {
	v := imageView{Name: i.GetName(), Kind: i.GetKind(), Created: stamp(i.GetCreated()), Channels: []channelView{}, Versions: []imageVersionView{}}
	for _, c := range i.GetChannels() {
		v.Channels = append(v.Channels, viewChannel(c))
	}
	for _, n := range i.GetVersions() {
		v.Versions = append(v.Versions, viewVersion(n))
	}
	return v
}

func viewChannel(c *adminv1.Channel) channelView {
	return channelView{Name: c.GetName(), Version: c.GetVersion(), Previous: c.GetPrevious(), Changed: stamp(c.GetChanged())}
}

func viewVersion(n *adminv1.Version) imageVersionView {
	return imageVersionView{
		Number: n.GetNumber(), ID: hex.EncodeToString(n.GetId()), Digest: hex.EncodeToString(n.GetDigest()), SHA256: hex.EncodeToString(n.GetSha256()),
		SizeBytes: n.GetSizeBytes(), TotalBytes: n.GetTotalBytes(), Architecture: n.GetArchitecture(), Kernel: n.GetKernelRelease(), OS: n.GetOs(),
		Note: n.GetNote(), Source: n.GetSource(), Publisher: n.GetPublisher(), Created: stamp(n.GetCreated()),
		Verified: n.GetSatellitesVerified(), Wanted: n.GetSatellitesWanted(),
	}
}

// channelsAt lists the channels that point to a version.
func (v imageView) channelsAt(number uint64) string {
	var names []string
	for _, c := range v.Channels {
		if c.Version == number {
			names = append(names, c.Name)
		}
	}
	return list(names)
}

var imageColumns = []string{"NAME", "KIND", "NEWEST", "CHANNELS", "SIZE", "KERNEL", "ON SATELLITES", "CREATED"}

func (v imageView) row() []string {
	if len(v.Versions) == 0 {
		return []string{v.Name, v.Kind, "", "", "", "", "", day(v.Created)}
	}
	var channels []string
	for _, c := range v.Channels {
		channels = append(channels, fmt.Sprintf("%s=%d", c.Name, c.Version))
	}
	n := v.Versions[0]
	return []string{v.Name, v.Kind, fmt.Sprint(n.Number), list(channels), progress.Bytes(n.TotalBytes), n.Kernel, count(n.Verified, n.Wanted), day(n.Created)}
}

func (a *app) image() *cobra.Command {
	return group("image", "Build, publish and move images",
		a.imageBuild(), a.imagePublish(), a.imagePublishBootloaders(), a.imageShow(), a.imageDiff(), a.imageDelta(), a.imageSyncPlan(), a.imagePromote(), a.imageRollback(), a.imageDelete(),
		a.listCommand("List images with their newest version", []string{"image", "satellite"}, nil, func(ctx context.Context, conn *grpc.ClientConn) (printer.View, error) {
			r, err := adminv1.NewImageServiceClient(conn).ListImages(ctx, &adminv1.ListImagesRequest{})
			views := []imageView{}
			var rows [][]string
			for _, i := range r.GetImages() {
				v := viewImage(i)
				views, rows = append(views, v), append(rows, v.row())
			}
			return printer.View{Value: views, Columns: imageColumns, Rows: rows}, err
		}))
}

func (a *app) imageShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show an image with its channels and all versions", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewImageServiceClient(conn).GetImage(ctx, &adminv1.GetImageRequest{Name: args[0]})
				if err != nil {
					return err
				}
				v := viewImage(r.GetImage())
				view := printer.View{Value: v, Columns: []string{"VERSION", "CHANNELS", "CREATED", "SIZE", "KERNEL", "ON SATELLITES", "ID", "DIGEST", "NOTE"}}
				for _, n := range v.Versions {
					view.Rows = append(view.Rows, []string{fmt.Sprint(n.Number), v.channelsAt(n.Number), day(n.Created), progress.Bytes(n.TotalBytes), n.Kernel,
						count(n.Verified, n.Wanted), short(n.ID), short(n.Digest), n.Note})
				}
				return a.print(view)
			})
		},
	}
}

func (a *app) imagePromote() *cobra.Command {
	var channel string
	c := &cobra.Command{
		Use:     "promote NAME VERSION",
		Short:   "Point a channel to a version",
		Example: "  ltspctl image promote lab 12 --channel stable",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := strconv.ParseUint(args[1], 10, 64)
			if err != nil {
				return usagef("version %q is no number", args[1])
			}
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewImageServiceClient(conn).SetChannel(ctx, &adminv1.SetChannelRequest{Image: args[0], Channel: channel, Version: number})
				if err != nil {
					return err
				}
				return a.printChannel(args[0], r.GetChannel())
			})
		},
	}
	c.Flags().StringVar(&channel, "channel", "stable", "channel to move")
	return c
}

func (a *app) printChannel(image string, c *adminv1.Channel) error {
	v := viewChannel(c)
	previous := ""
	if v.Previous != 0 {
		previous = fmt.Sprint(v.Previous)
	}
	return a.print(printer.View{Value: v, Columns: []string{"IMAGE", "CHANNEL", "VERSION", "PREVIOUS"}, Rows: [][]string{{image, v.Name, fmt.Sprint(v.Version), previous}}})
}

func (a *app) imageRollback() *cobra.Command {
	var channel string
	c := &cobra.Command{
		Use:   "rollback NAME",
		Short: "Point a channel back to the version it pointed to before",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewImageServiceClient(conn).RollbackChannel(ctx, &adminv1.RollbackChannelRequest{Image: args[0], Channel: channel})
				if err != nil {
					return err
				}
				return a.printChannel(args[0], r.GetChannel())
			})
		},
	}
	c.Flags().StringVar(&channel, "channel", "stable", "channel to move")
	return c
}

func (a *app) imageDelete() *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME[@VERSION]",
		Short:   "Delete a version, or an image with all its versions",
		Example: "  ltspctl image delete lab@3\n  ltspctl image delete old-lab",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, version, one := strings.Cut(args[0], "@")
			number, err := strconv.ParseUint(version, 10, 64)
			if one && err != nil {
				return usagef("version %q is no number", version)
			}
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				freed, err := deleteImage(ctx, adminv1.NewImageServiceClient(conn), name, number)
				if err == nil {
					a.say("%s deleted, %s freed", args[0], progress.Bytes(freed))
				}
				return err
			})
		},
	}
}

// deleteImage deletes one version, or with number 0 the whole image.
func deleteImage(ctx context.Context, api adminv1.ImageServiceClient, name string, number uint64) (uint64, error) {
	if number == 0 {
		r, err := api.DeleteImage(ctx, &adminv1.DeleteImageRequest{Name: name})
		return r.GetFreedBytes(), err
	}
	r, err := api.DeleteVersion(ctx, &adminv1.DeleteVersionRequest{Image: name, Version: number})
	return r.GetFreedBytes(), err
}
