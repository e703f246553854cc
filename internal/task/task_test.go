package task

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func waits(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func TestRun(t *testing.T) {
	broken := errors.New("broken")
	tests := []struct {
		name  string
		tasks []Task
		end   bool
		want  string
	}{
		{name: "context ends all", tasks: []Task{{"a", waits}, {"b", waits}}, end: true},
		{name: "first failure ends all", tasks: []Task{{"a", waits}, {"b", func(context.Context) error { return broken }}}, want: "b: broken"},
		{name: "ending early is a failure", tasks: []Task{{"a", waits}, {"b", func(context.Context) error { return nil }}}, want: "b: it ended by itself"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.end {
				cancel()
			}
			err := Run(ctx, nil, tt.tasks...)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}
