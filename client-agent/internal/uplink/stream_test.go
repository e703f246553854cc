package uplink

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// satellite is one end of a pipe that behaves as a satellite does, or as a test tells it to.
type satellite struct {
	t    *testing.T
	conn *tls.Conn
	r    *agentproto.Reader
	w    *agentproto.Writer
}

// say sends messages.
func (s *satellite) say(list ...agentproto.Message) {
	s.t.Helper()
	for _, m := range list {
		if err := s.w.Write(m); err != nil {
			s.t.Errorf("satellite: %v", err)
		}
	}
}

// hear returns the agent's next line.
func (s *satellite) hear() agentproto.Message {
	s.t.Helper()
	m, err := s.r.Read()
	if err != nil {
		s.t.Errorf("satellite: %v", err)
	}
	return m
}

// ends checks that the agent closes the stream.
func (s *satellite) ends() {
	s.t.Helper()
	if m, err := s.r.Read(); err == nil {
		s.t.Errorf("satellite: heard %+v, want the end", m)
	}
}

func ack(next time.Duration) agentproto.Message {
	return agentproto.Message{Ack: &agentproto.Ack{Next: agentproto.Duration(next)}}
}

func refusal(text string) agentproto.Message {
	return agentproto.Message{Ack: &agentproto.Ack{Error: text}}
}

var report = agentproto.Message{Report: &agentproto.Report{State: "healthy"}}

// pipe starts a satellite's script and returns the agent's end and what it trusts. It must be called in a bubble, which waits for the script.
func pipe(t *testing.T, script func(*satellite)) (net.Conn, *tls.Config) {
	t.Helper()
	now := time.Now()
	ca := newAuthority(t, now.AddDate(-1, 0, 0), now.AddDate(1, 0, 0))
	cert := ca.issue(t, now.AddDate(-1, 0, 0), now.AddDate(1, 0, 0), x509.ExtKeyUsageServerAuth, satelliteURI)
	cfg, err := TLSConfig(ca.pem(), "school-a")
	if err != nil {
		t.Fatal(err)
	}
	mine, its := net.Pipe()
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		c := tls.Server(its, &tls.Config{Certificates: []tls.Certificate{cert}})
		s := &satellite{t: t, conn: c, r: agentproto.NewReader(c), w: agentproto.NewWriter(c)}
		script(s)
		c.CloseWrite()
		its.Close()
	}()
	return mine, cfg
}

// session opens a session with a satellite that has a script behind the hello.
func session(t *testing.T, incoming func(agentproto.Message), script func(*satellite)) *Session {
	t.Helper()
	conn, cfg := pipe(t, func(s *satellite) {
		if m := s.hear(); m.Hello == nil || m.Hello.MAC != hello.MAC || m.Hello.Fetch {
			t.Errorf("hello is %+v", m)
		}
		s.say(ack(7 * time.Second))
		script(s)
	})
	s, err := Start(t.Context(), conn, cfg, hello, incoming)
	if err != nil {
		t.Fatal(err)
	}
	if s.First.Next != agentproto.Duration(7*time.Second) {
		t.Errorf("first answer %+v", s.First)
	}
	return s
}

func TestSessionBothWays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		notice := agentproto.Message{Notice: &agentproto.Notice{Policy: "new"}}
		command := agentproto.Message{Command: &agentproto.Command{ID: "1", Kind: agentproto.CommandReboot}}
		var got []agentproto.Message
		s := session(t, func(m agentproto.Message) { got = append(got, m) }, func(sat *satellite) {
			sat.say(notice)
			for range 3 {
				sat.hear()
				sat.say(command, ack(time.Second), notice)
			}
			time.Sleep(time.Hour)
			sat.say(command)
			sat.ends()
		})
		for _, m := range []agentproto.Message{report, {Result: &agentproto.Result{ID: "1"}}, {Event: &agentproto.Event{Kind: "x"}}} {
			if a, err := s.Send(t.Context(), m); err != nil || a.Next != agentproto.Duration(time.Second) {
				t.Errorf("got %+v, %v", a, err)
			}
		}
		time.Sleep(2 * time.Hour) // silence is no reason to end
		select {
		case <-s.Done():
			t.Errorf("ended: %v", s.Err())
		default:
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		<-s.Done()
		if !errors.Is(s.Err(), ErrClosed) {
			t.Errorf("got %v, want ErrClosed", s.Err())
		}
		if diff := cmp.Diff([]agentproto.Message{notice, command, notice, command, notice, command, notice, command}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestSessionEnds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		script func(*satellite)
		want   error
		text   string
		took   time.Duration
	}{
		{"refuses the line", func(s *satellite) { s.hear(); s.say(refusal("too fast")) }, ErrRefused, "too fast", 0},
		{"goes away", func(s *satellite) { s.hear() }, io.EOF, "", 0},
		{"says nothing", func(s *satellite) { s.hear(); s.ends() }, errSilent, "no answer for 10s", exchangeTimeout},
		{"does not listen", func(s *satellite) { time.Sleep(time.Hour) }, errSilent, "", exchangeTimeout},
		{"sends a report", func(s *satellite) { s.hear(); s.say(report) }, agentproto.ErrBadMessage, "", 0},
		{"sends bytes", func(s *satellite) { s.hear(); s.say(agentproto.Message{Blob: &agentproto.Blob{}}) }, agentproto.ErrBadMessage, "", 0},
		{"acknowledges twice", func(s *satellite) { s.hear(); s.say(ack(0)); s.say(ack(0)); s.ends() }, nil, "", 0},
		{"sends garbage", func(s *satellite) {
			s.hear()
			if _, err := s.conn.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")); err != nil {
				s.t.Error(err)
			}
		}, agentproto.ErrBadMessage, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := session(t, unexpected(t), tt.script)
				begin := time.Now()
				_, err := s.Send(t.Context(), report)
				if !errors.Is(err, tt.want) || tt.text != "" && !strings.Contains(err.Error(), tt.text) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if took := time.Since(begin); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				if !errors.Is(tt.want, errSilent) {
					<-s.Done()
					if _, err := s.Send(t.Context(), report); err == nil {
						t.Error("a session that has ended sends")
					}
				}
				s.Close()
			})
		})
	}
}

func TestSessionSendEndsWithContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := session(t, unexpected(t), func(s *satellite) { s.hear(); s.ends() })
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := s.Send(ctx, report); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		s.Close()
	})
}

// store is what a fake satellite has to fetch.
type store map[string][]byte

func sum(b []byte) string { return agentproto.Digest(b) }

// serve answers fetches until the agent ends the stream.
func (b store) serve(s *satellite) {
	if m := s.hear(); m.Hello == nil || !m.Hello.Fetch {
		s.t.Errorf("hello is %+v", m)
	}
	s.say(ack(0))
	for {
		m, err := s.r.Read()
		if err != nil {
			return
		}
		data, ok := b[m.Fetch.Name]
		if !ok {
			s.say(refusal("unknown"))
			continue
		}
		s.say(agentproto.Message{Blob: &agentproto.Blob{Size: uint64(len(data)), SHA256: sum(data)}})
		if _, err := s.conn.Write(data); err != nil {
			return
		}
	}
}

func fetcher(t *testing.T, script func(*satellite)) *Fetcher {
	t.Helper()
	conn, cfg := pipe(t, script)
	f, err := StartFetch(t.Context(), conn, cfg, hello)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFetch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		b := store{agentproto.PolicyName: []byte("{}"), sum(large): large, sum(nil): nil}
		f := fetcher(t, b.serve)
		for _, name := range []string{agentproto.PolicyName, sum(large), sum(nil), agentproto.PolicyName} {
			var got bytes.Buffer
			blob, err := f.Fetch(t.Context(), name, agentproto.MaxBlob, &got)
			if err != nil || !bytes.Equal(got.Bytes(), b[name]) || blob.SHA256 != sum(b[name]) || blob.Size != uint64(len(b[name])) {
				t.Errorf("%s: %+v, %d bytes, %v", name, blob, got.Len(), err)
			}
		}
		if _, err := f.Fetch(t.Context(), sum([]byte("x")), 10, io.Discard); !errors.Is(err, ErrRefused) {
			t.Errorf("got %v, want ErrRefused", err)
		}
		if _, err := f.Fetch(t.Context(), agentproto.PolicyName, 2, io.Discard); err != nil {
			t.Errorf("behind a refusal: %v", err)
		}
		if _, err := f.Fetch(t.Context(), sum(large), uint64(len(large)-1), io.Discard); !errors.Is(err, ErrCorrupt) {
			t.Errorf("more than wanted: %v", err)
		}
		f.Close()
	})
}

func TestFetchFails(t *testing.T) {
	t.Parallel()
	data := []byte("bytes of a layer")
	announce := func(s *satellite, size int, digest string) {
		s.say(agentproto.Message{Blob: &agentproto.Blob{Size: uint64(size), SHA256: digest}})
	}
	for _, tt := range []struct {
		name   string
		script func(*satellite)
		want   error
		took   time.Duration
	}{
		{"other bytes", func(s *satellite) { announce(s, len(data), sum(data)); s.write("bytes of another") }, ErrCorrupt, 0},
		{"another digest", func(s *satellite) { announce(s, len(data), sum(nil)); s.ends() }, ErrCorrupt, 0},
		{"too many", func(s *satellite) { announce(s, agentproto.MaxBlob+1, sum(data)); s.ends() }, ErrCorrupt, 0},
		{"cut", func(s *satellite) { announce(s, len(data), sum(data)); s.write("bytes") }, io.ErrUnexpectedEOF, 0},
		{"stalls", func(s *satellite) { announce(s, len(data), sum(data)); s.write("bytes"); s.ends() }, errTimeout, stallTimeout},
		{"does not answer", func(s *satellite) { s.ends() }, errTimeout, stallTimeout},
		{"goes away", func(*satellite) {}, io.EOF, 0},
		{"acknowledges", func(s *satellite) { s.say(ack(0)); s.ends() }, agentproto.ErrBadMessage, 0},
		{"reports", func(s *satellite) { s.say(report); s.ends() }, agentproto.ErrBadMessage, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := fetcher(t, func(s *satellite) {
					s.hear()
					s.say(ack(0))
					s.hear()
					tt.script(s)
				})
				begin := time.Now()
				_, err := f.Fetch(t.Context(), sum(data), agentproto.MaxBlob, io.Discard)
				var timeout net.Error
				if errors.Is(tt.want, errTimeout) {
					if !errors.As(err, &timeout) || !timeout.Timeout() {
						t.Errorf("got %v, want a timeout", err)
					}
				} else if !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if took := time.Since(begin); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				f.Close()
			})
		})
	}
}

// errTimeout stands for any error that says so of itself.
var errTimeout = errors.New("timeout")

func (s *satellite) write(text string) {
	if _, err := io.WriteString(s.conn, text); err != nil {
		s.t.Errorf("satellite: %v", err)
	}
}

func TestFetchEndsWithContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := fetcher(t, func(s *satellite) {
			s.hear()
			s.say(ack(0))
			s.hear()
			s.say(agentproto.Message{Blob: &agentproto.Blob{Size: 1 << 20, SHA256: sum(nil)}})
			for { // slow, but never still
				if _, err := s.conn.Write([]byte{0}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := f.Fetch(ctx, sum(nil), 1<<20, io.Discard); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestFetchHelloRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn, cfg := pipe(t, func(s *satellite) { s.hear(); s.say(refusal("unknown token")); s.ends() })
		if _, err := StartFetch(t.Context(), conn, cfg, hello); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "hello") {
			t.Errorf("got %v", err)
		}
	})
}

// failing is a disk that is full.
type failing struct{}

var errFull = errors.New("full")

func (failing) Write([]byte) (int, error) { return 0, errFull }

func TestFetchIntoNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		data := []byte("x")
		f := fetcher(t, store{sum(data): data}.serve)
		if _, err := f.Fetch(t.Context(), sum(data), 1, failing{}); !errors.Is(err, errFull) {
			t.Errorf("got %v", err)
		}
		f.Close()
	})
}
