// Package command is ltspctl's command line: one file per noun. It parses flags, calls the controller and hands what comes back to
// printer. Only ltspctl's main imports it.
package command

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/contexts"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/progress"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manpages"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// Main runs ltspctl with args (without the program's name) and returns its exit code.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := New(stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	code := exitCode(ctx, err)
	fmt.Fprintf(stderr, "ltspctl: %s\n", message(err))
	if code == ExitUsage {
		fmt.Fprintln(stderr, "See \"ltspctl --help\" or add --help to the command.")
	}
	return code
}

// app is what all commands share.
type app struct {
	stdout, stderr io.Writer
	contextsPath   string
	contextName    string
	output         string
	quiet          bool
	timeout        time.Duration
}

// New builds the command tree. stdout gets results, stderr messages and progress.
func New(stdout, stderr io.Writer) *cobra.Command {
	a := &app{stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:   "ltspctl",
		Short: "Build images and steer a fleet of diskless PCs",
		Long: "ltspctl builds and publishes images and configures sites, satellites and clients through the controller.\n\n" +
			"The controller's address and your credential come from the contexts file (see \"ltspctl context --help\").",
		Example: "  ltspctl image build / --name lab\n" +
			"  ltspctl image publish lab.squashfs --name lab --channel stable\n" +
			"  ltspctl site create school1 --image lab:stable\n" +
			"  ltspctl token create --site school1\n" +
			"  ltspctl client list --watch",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	flags := root.PersistentFlags()
	flags.StringVar(&a.contextsPath, "contexts", contexts.DefaultPath(), "contexts file")
	flags.StringVar(&a.contextName, "context", "", "context to use (default: the file's current one)")
	flags.StringVarP(&a.output, "output", "o", "table", "output format: table, json or yaml")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "show no progress")
	flags.DurationVar(&a.timeout, "timeout", 30*time.Second, "longest wait for one answer of the controller")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(a.image(), a.delta(), a.site(), a.subnet(), a.satellite(), a.client(), a.policy(), a.token(), a.audit(), a.context(), a.version(), manpages.Command("1"))
	wrapArgs(root)
	return root
}

// wrapArgs makes wrong arguments usage errors, for all commands.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

// group makes a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.AddCommand(subs...)
	return c
}

// endCommand makes a command that ends something named by its one argument; said, with the name in it, is what people read then.
func (a *app) endCommand(use, short, said string, do func(ctx context.Context, conn *grpc.ClientConn, name string) error) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				err := do(ctx, conn, args[0])
				if err == nil {
					a.say(said, args[0])
				}
				return err
			})
		},
	}
}

func (a *app) progress() *progress.Reporter {
	f, ok := a.stderr.(*os.File)
	if a.quiet || !ok {
		return nil
	}
	return progress.New(f)
}

// say prints a message for people, unless the output is for programs.
func (a *app) say(format string, args ...any) {
	if a.output == string(printer.Table) {
		fmt.Fprintf(a.stdout, format+"\n", args...)
	}
}

func (a *app) print(v printer.View) error {
	f, err := printer.ParseFormat(a.output)
	if err != nil {
		return usageError{err}
	}
	return printer.Print(a.stdout, f, v)
}

// connect dials the controller of the context in use.
func (a *app) connect() (*grpc.ClientConn, error) {
	file, err := contexts.Read(a.contextsPath)
	if err != nil {
		return nil, err
	}
	c, err := file.Get(a.contextName)
	if err != nil {
		return nil, err
	}
	ca, err := pki.ParseCertificate([]byte(c.CA))
	if err != nil {
		return nil, fmt.Errorf("context %q: CA: %w", c.Name, err)
	}
	pair, err := pki.KeyPair([]byte(c.Certificate), []byte(c.Key))
	if err != nil {
		return nil, fmt.Errorf("context %q: %w", c.Name, err)
	}
	return dial(c.Controller, pki.ClientTLS(pki.NewHolder(pair), ca))
}

func dial(address string, config *tls.Config) (*grpc.ClientConn, error) {
	const window, buffer, maxMessage = 4 << 20, 256 << 10, 64 << 20
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithReadBufferSize(buffer), grpc.WithWriteBufferSize(buffer),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}))
	if err != nil {
		return nil, fmt.Errorf("controller %s: %w", address, err)
	}
	return conn, nil
}

// call connects, runs f with a deadline of one answer, and closes.
func (a *app) call(ctx context.Context, f func(context.Context, *grpc.ClientConn) error) error {
	return a.stream(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, a.timeout)
		defer cancel()
		return f(ctx, conn)
	})
}

// stream is call without a deadline.
func (a *app) stream(ctx context.Context, f func(context.Context, *grpc.ClientConn) error) error {
	if _, err := printer.ParseFormat(a.output); err != nil {
		return usageError{err}
	}
	conn, err := a.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(ctx, conn)
}
