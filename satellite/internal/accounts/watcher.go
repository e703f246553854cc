package accounts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ssh"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// lastName is the file of the last known accounts.
const lastName = "accounts.json"

// maxLast bounds that file.
const maxLast = agentproto.MaxUsers + 1<<20

// Back-off after a failed attempt: a random part of a bound that doubles.
const (
	backoffBase = time.Second
	backoffMax  = time.Minute
)

// State is how the login host is watched.
type State string

// States.
const (
	OK          State = "ok"
	Unset       State = "unset" // there is no login host
	Unreachable State = "unreachable"
	HostKey     State = "host-key" // it has another key than the pinned ones, or none is pinned
	Denied      State = "denied"   // it does not accept this satellite's key
	Failed      State = "error"    // anything else; Status.Error says what
)

// Accounts are what is known of a login host.
type Accounts struct {
	// Users is the JSON text of agentproto.Users.
	Users []byte
	// HostKeys are this machine's SSH host keys, as in known_hosts without the names; only of a login host that is this machine.
	HostKeys []string
}

// Config configures a Watcher. Dir is required.
type Config struct {
	// Dir holds the key and the last known accounts; it is made if it is missing.
	Dir string
	// Comment stands behind the public key.
	Comment string
	// Etc is where the accounts of this machine are; empty: /etc.
	Etc string
	// Changed is told of accounts that are new, or known from before when a login host is set. It must not block for long. nil: nobody is.
	Changed func(address string, a Accounts)
	// Problem, if not nil, is told what a person should look at, by key; an empty text says that it is over.
	Problem func(key, text string)
	Now     func() time.Time // nil: time.Now
	Logger  *slog.Logger     // nil discards
	Metrics prometheus.Registerer
}

// Status is how the accounts are got.
type Status struct {
	PublicKey string // authorized_keys format
	State     State
	Error     string    // for people; empty if the state is OK or Unset
	Updated   time.Time // when the accounts were read last; zero: never
	Users     int       // ordinary users
	Held      bool      // the login host's list is much shorter than that one, and does not count yet
}

// Watcher watches the accounts of one login host at a time. Its methods are safe for concurrent use.
type Watcher struct {
	cfg     Config
	log     *slog.Logger
	signer  ssh.Signer
	metrics *metrics
	changed chan struct{}

	mu     sync.Mutex
	host   config.LoginHost
	status Status
	last   *last // of host.Address once it is set; nil: none
	held   *held // of the present connection; nil: none
}

// last is the last known accounts as they are stored.
type last struct {
	Address  string    `json:"address"`
	Updated  time.Time `json:"updated"`
	Count    int       `json:"count"`
	Users    []byte    `json:"users"`
	HostKeys []string  `json:"host_keys,omitempty"`
}

// New reads or makes the key, and reads the last known accounts. It watches nothing before Run.
func New(cfg Config) (*Watcher, error) {
	if cfg.Dir == "" {
		return nil, errors.New("accounts need a directory")
	}
	if cfg.Etc == "" {
		cfg.Etc = "/etc"
	}
	if cfg.Changed == nil {
		cfg.Changed = func(string, Accounts) {}
	}
	if cfg.Problem == nil {
		cfg.Problem = func(string, string) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of the login host's accounts: %w", err)
	}
	signer, err := loadKey(cfg.Dir, cfg.Comment)
	if err != nil {
		return nil, err
	}
	w := &Watcher{cfg: cfg, log: cfg.Logger, signer: signer, changed: make(chan struct{}, 1), status: Status{PublicKey: publicKey(signer, cfg.Comment), State: Unset}}
	w.last = w.load()
	w.metrics, err = newMetrics(cfg.Metrics, w)
	return w, err
}

// load reads the last known accounts. What is damaged is as none.
func (w *Watcher) load() *last {
	f, err := os.Open(filepath.Join(w.cfg.Dir, lastName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	l := new(last)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(f, 2*maxLast))
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		err = json.Unmarshal(text, l)
	}
	if err == nil {
		_, err = agentproto.ParseUsers(l.Users)
	}
	if err != nil {
		w.log.Warn("the last known accounts can't be read", "err", err)
		return nil
	}
	return l
}

// SetHost says which login host is to be watched; the zero LoginHost means none. It returns at once.
func (w *Watcher) SetHost(h config.LoginHost) {
	w.mu.Lock()
	same := reflect.DeepEqual(h, w.host)
	w.host = h
	w.mu.Unlock()
	if !same {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

// Status tells how the accounts are got.
func (w *Watcher) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		w.mu.Lock()
		h := w.host
		w.mu.Unlock()
		w.begin(h)
		hostCtx, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.watch(hostCtx, h)
		}()
		w.other(ctx, h)
		cancel()
		<-done
	}
	return ctx.Err()
}

// other returns when there is another login host than h, or ctx has ended.
func (w *Watcher) other(ctx context.Context, h config.LoginHost) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
		}
		w.mu.Lock()
		same := reflect.DeepEqual(h, w.host)
		w.mu.Unlock()
		if !same {
			return
		}
	}
}

// begin shows what is known of a login host before it is asked.
func (w *Watcher) begin(h config.LoginHost) {
	w.mu.Lock()
	w.status = Status{PublicKey: w.status.PublicKey, State: Unset}
	if h.Address != "" {
		w.status.State, w.status.Error = Failed, "not connected yet"
	}
	l := w.last
	if l != nil && l.Address == h.Address {
		w.status.Updated, w.status.Users = l.Updated, l.Count
	} else {
		l = nil
	}
	w.mu.Unlock()
	w.release()
	w.cfg.Problem("login-host", "")
	if l != nil {
		w.cfg.Changed(l.Address, Accounts{Users: l.Users, HostKeys: l.HostKeys})
	}
}

// watch tries until ctx ends.
func (w *Watcher) watch(ctx context.Context, h config.LoginHost) {
	if h.Address == "" {
		<-ctx.Done()
		return
	}
	failures := 0
	for {
		var err error
		if h.Address == config.LocalLogin {
			err = w.watchLocal(ctx, func(t texts, keys []string) error { failures = 0; return w.found(h, t, keys, w.take) })
		} else {
			err = w.watchRemote(ctx, h, func(t texts) error { failures = 0; return w.found(h, t, nil, w.takeUnlessShort) })
		}
		if ctx.Err() != nil {
			return
		}
		failures++
		wait := backoff(failures)
		w.failed(h, err, wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func backoff(failures int) time.Duration {
	bound := min(backoffBase<<min(failures-1, 10), backoffMax)
	return bound/2 + rand.N(bound/2+1)
}

// reading is accounts that were read just now.
type reading struct {
	list    *last // never changes
	dropped int   // lines that were unusable
}

// found gives take what was read.
func (w *Watcher) found(h config.LoginHost, t texts, keys []string, take func(reading)) error {
	c, err := clean(t)
	if err != nil {
		return err
	}
	users, err := json.Marshal(c.Users)
	if err != nil {
		return fmt.Errorf("encode accounts: %w", err)
	}
	take(reading{&last{Address: h.Address, Updated: w.cfg.Now(), Count: c.users, Users: users, HostKeys: keys}, c.dropped})
	return nil
}

// take makes what was read that which is known.
func (w *Watcher) take(r reading) {
	l := r.list
	w.mu.Lock()
	before := w.last
	same := before != nil && before.Address == l.Address && string(before.Users) == string(l.Users) && slices.Equal(before.HostKeys, l.HostKeys)
	w.last = l
	w.status.State, w.status.Error, w.status.Updated, w.status.Users = OK, "", l.Updated, l.Count
	w.mu.Unlock()
	w.release()
	problem := ""
	if r.dropped > 0 {
		problem = fmt.Sprintf("%d accounts of the login host are unusable and were left out: they break the rules of passwd(5) or group(5)", r.dropped)
	}
	w.cfg.Problem("accounts", problem)
	w.cfg.Problem("login-host", "")
	if same {
		return
	}
	w.metrics.updates.Inc()
	w.log.Info("accounts of the login host", "addr", l.Address, "users", l.Count, "dropped", r.dropped)
	w.store(l)
	w.cfg.Changed(l.Address, Accounts{Users: l.Users, HostKeys: l.HostKeys})
}

// store keeps the accounts for when the login host is away at the next start.
func (w *Watcher) store(l *last) {
	text, err := json.Marshal(l)
	if err == nil {
		err = atomicfile.Write(filepath.Join(w.cfg.Dir, lastName), text, 0o600)
	}
	problem := ""
	if err != nil {
		w.log.Error("accounts are not stored", "err", err)
		problem = fmt.Sprintf("the accounts of the login host can't be stored: %v", err)
	}
	w.cfg.Problem("accounts-store", problem)
}

func (w *Watcher) failed(h config.LoginHost, err error, wait time.Duration) {
	state := Failed
	if f, ok := errors.AsType[*failure](err); ok {
		state = f.state
	}
	w.mu.Lock()
	w.status.State, w.status.Error = state, err.Error()
	updated := w.status.Updated
	w.mu.Unlock()
	w.release() // a host that starts lists what it has before its directory is there: the time begins anew
	w.metrics.failures.WithLabelValues(string(state)).Inc()
	w.log.Warn("the login host's accounts can't be had", "addr", h.Address, "state", state, "err", err, "dur", wait)
	kept := "no accounts are known"
	if !updated.IsZero() {
		kept = "clients keep the accounts of " + updated.UTC().Format(time.RFC3339)
	}
	w.cfg.Problem("login-host", fmt.Sprintf("login host %s: %v; %s", h.Address, err, kept))
}
