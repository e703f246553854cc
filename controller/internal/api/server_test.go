package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunkstore"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// Each method that is served is in the table, each entry of the table is served, and nothing that changes things is open to strangers.
func TestEveryMethodIsListed(t *testing.T) {
	s := &Server{grpc: grpc.NewServer()}
	s.register()
	table := methods()
	for service, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			name := "/" + service + "/" + m.Name
			rule, ok := table[name]
			if !ok {
				t.Errorf("%s is served and not in the table", name)
			}
			delete(table, name)
			checkRule(t, name, rule)
		}
	}
	for name := range table {
		t.Errorf("%s is in the table and not served", name)
	}
}

func checkRule(t *testing.T, name string, rule access) {
	t.Helper()
	if len(rule.roles) == 0 {
		t.Errorf("%s: nobody may call it", name)
	}
	enrol, renew := strings.HasSuffix(name, "/Enrol"), strings.HasSuffix(name, "/Renew")
	if rule.anonymous != enrol || rule.expired != (enrol || renew) {
		t.Errorf("%s: anonymous %v, expired %v", name, rule.anonymous, rule.expired)
	}
	if strings.HasPrefix(name, "/ltsp.admin.") && rule.allows(pki.Satellite) {
		t.Errorf("%s: satellites may call it", name)
	}
	if rule.allows(pki.Controller) {
		t.Errorf("%s: the controller has no business calling itself", name)
	}
}

func bare() *Server {
	return &Server{cfg: Config{Log: slog.New(slog.DiscardHandler)}, metrics: newMetrics(nil, func() float64 { return 0 })}
}

func TestPanicEndsTheCallOnly(t *testing.T) {
	ctx := context.WithValue(t.Context(), callerKey{}, caller{})
	_, err := bare().unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/x/Y"}, func(context.Context, any) (any, error) { panic("secret detail") })
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want Internal without the detail", err)
	}
}

func TestCallWithoutAuthority(t *testing.T) {
	_, err := bare().unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/x/Y"}, func(context.Context, any) (any, error) { return nil, nil })
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v, want Unauthenticated", err)
	}
}

func TestStatus(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	tests := map[codes.Code]error{
		codes.OK:                 nil,
		codes.NotFound:           fmt.Errorf("wrapped: %w", fleet.Errorf(fleet.ErrNotFound, "gone")),
		codes.ResourceExhausted:  &chunkstore.NoSpaceError{},
		codes.DataLoss:           fmt.Errorf("read: %w", &chunkstore.CorruptError{ID: chunk.ID{1}, Err: errors.New("bad")}),
		codes.Canceled:           context.Canceled,
		codes.Internal:           errors.New("open /var/lib/secret: no"),
		codes.FailedPrecondition: fleet.Errorf(fleet.ErrInUse, "in use"),
	}
	for want, err := range tests {
		got := toStatus(log, "/x/Y", err)
		if status.Code(got) != want {
			t.Errorf("%v: got %v, want %s", err, got, want)
		}
	}
	if got := toStatus(log, "/x/Y", errors.New("open /var/lib/secret: no")); strings.Contains(got.Error(), "/var/lib") {
		t.Errorf("internal detail leaves the controller: %v", got)
	}
}

// The metrics of the package comment are those that are registered.
func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := newMetrics(reg, func() float64 { return 0 })
	m.rpcs.WithLabelValues("m", "OK").Inc()
	m.limited.WithLabelValues("put").Inc()
	m.enrolments.WithLabelValues("ok").Inc()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		got = append(got, f.GetName())
	}
	want := "ltsp_controller_chunk_sent_bytes_total ltsp_controller_connections ltsp_controller_enrolments_total ltsp_controller_rpcs_limited_total ltsp_controller_rpcs_total"
	if strings.Join(got, " ") != want {
		t.Errorf("metrics\n got %s\nwant %s", strings.Join(got, " "), want)
	}
}
