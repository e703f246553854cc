package command

import (
	"errors"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
	"github.com/ltsp-fleet/ltsp-fleet/internal/remoteapp"
)

// remoteappFlags are what users say of an application. Empty ones stay out of its file: clients make them up from the name and ltsp.conf.
type remoteappFlags struct {
	Name       string `json:"name"`
	Title      string `json:"title,omitempty"`
	Comment    string `json:"comment,omitempty"`
	Exec       string `json:"exec,omitempty"`
	Icon       string `json:"icon,omitempty"`
	Categories string `json:"categories,omitempty"`
	Hosts      string `json:"hosts,omitempty"`
	Trusted    bool   `json:"trusted,omitempty"`
}

// file is the application's in a policy's tree. The error is the user's.
func (r *remoteappFlags) file() (policy.File, error) {
	f := policy.File{Path: remoteapp.Path(r.Name), Kind: policy.Regular, Mode: 0o644}
	if err := remoteapp.CheckName(r.Name); err != nil {
		return f, fmt.Errorf("name %q: %w", r.Name, err)
	}
	hosts, err := remoteapp.ParseHosts(r.Hosts)
	if err != nil {
		return f, err
	}
	app := remoteapp.App{Title: r.Title, Comment: r.Comment, Exec: r.Exec, Icon: r.Icon, Categories: r.Categories, Hosts: hosts}
	if r.Trusted {
		app.Trusted = new(true)
	}
	f.Content, err = app.Encode()
	return f, err
}

// remoteappsIn returns the applications of a tree in the order of their names, and the errors of files that clients can't use.
func remoteappsIn(tree policy.Tree) ([]remoteappFlags, error) {
	var apps []remoteappFlags
	var errs []error
	for _, f := range tree {
		name, ok := remoteapp.NameOf(f.Path)
		if !ok || f.Kind != policy.Regular {
			continue
		}
		app, err := remoteapp.Parse(f.Content)
		if nameErr := remoteapp.CheckName(name); nameErr != nil {
			err = nameErr
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.Path, err))
			continue
		}
		apps = append(apps, remoteappFlags{Name: name, Title: app.Title, Comment: app.Comment, Exec: app.Exec, Icon: app.Icon, Categories: app.Categories,
			Hosts: remoteapp.FormatHosts(app.Hosts), Trusted: app.Trusted != nil && *app.Trusted})
	}
	return apps, errors.Join(errs...)
}
