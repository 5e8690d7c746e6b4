package kafka

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"pelton/edges/internal/kafka/kafkatest"
	"pelton/internal/secret"
)

func newClient(t *testing.T, cfg Config, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := New(cfg, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// freeAddress is one on which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func TestPing(t *testing.T) {
	cluster := kafkatest.Start(t)
	if err := Ping(t.Context(), newClient(t, Config{Brokers: cluster.ListenAddrs()})); err != nil {
		t.Fatal(err)
	}
	// One seed that answers is enough.
	brokers := append([]string{freeAddress(t)}, cluster.ListenAddrs()...)
	if err := Ping(t.Context(), newClient(t, Config{Brokers: brokers})); err != nil {
		t.Fatal(err)
	}
}

func TestPingUnreachable(t *testing.T) {
	address := freeAddress(t)
	err := Ping(t.Context(), newClient(t, Config{Brokers: []string{address}}))
	if !errors.Is(err, ErrUnreachable) {
		t.Fatalf("%v is not ErrUnreachable", err)
	}
	if want := "kafka " + address + ": unreachable: "; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%q does not begin with %q", err, want)
	}
}

// A broker that accepts and never answers, as one that is overloaded or behind
// a dead proxy, must not hold the caller.
func TestPingSilentBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := func(context.Context, string, string) (net.Conn, error) {
			client, _ := net.Pipe()
			return client, nil
		}
		start := time.Now()
		err := Ping(t.Context(), newClient(t, Config{Dial: dial}))
		if !errors.Is(err, ErrUnreachable) {
			t.Errorf("%v is not ErrUnreachable", err)
		}
		if took := time.Since(start); took > pingTimeout {
			t.Errorf("took %v", took)
		}
	})
}

func TestPingCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Ping(ctx, newClient(t, Config{Brokers: []string{freeAddress(t)}}))
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v", err)
	}
}

func TestCredentials(t *testing.T) {
	cluster := kafkatest.Start(t, kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "pelton", "right"))
	// The fake hangs up on a wrong password; a broker says what is wrong.
	cluster.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		auth := req.(*kmsg.SASLAuthenticateRequest)
		if !bytes.Contains(auth.SASLAuthBytes, []byte("n=stranger")) {
			return nil, nil, false
		}
		resp := auth.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
		return resp, nil, true
	})
	for _, tt := range []struct {
		name string
		sasl SASL
		want error
	}{
		{"right", SASL{"scram-sha-256", "pelton", secret.New("right")}, nil},
		{"unknown user", SASL{"scram-sha-256", "stranger", secret.New("right")}, ErrRefused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cl := newClient(t, Config{Brokers: cluster.ListenAddrs(), SASL: tt.sasl})
			if err := Ping(t.Context(), cl); !errors.Is(err, tt.want) {
				t.Errorf("Ping: %v, want %v", err, tt.want)
			}
			// A role stops too: waiting does not mend a password.
			if err := WaitReady(t.Context(), cl, (&kafkatest.Journal{}).Logger()); !errors.Is(err, tt.want) {
				t.Errorf("WaitReady: %v, want %v", err, tt.want)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		err := Ping(t.Context(), newClient(t, Config{Brokers: cluster.ListenAddrs()}))
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "SASL") {
			t.Errorf("%v does not hint at the missing credentials", err)
		}
	})
}

func TestEncryption(t *testing.T) {
	// A certificate for 127.0.0.1, and the authority that knows it.
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	known := x509.NewCertPool()
	known.AddCert(web.Certificate())

	encrypted := kafkatest.Start(t, kfake.TLS(&tls.Config{
		Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS13,
	}))
	for _, tt := range []struct {
		name string
		tls  *tls.Config
		want error
	}{
		{"known authority", &tls.Config{RootCAs: known, MinVersion: tls.VersionTLS13}, nil},
		{"unknown authority", &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}, ErrRefused},
		{"none where needed", nil, ErrUnreachable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cl := newClient(t, Config{Brokers: encrypted.ListenAddrs(), TLS: tt.tls})
			if err := Ping(t.Context(), cl); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// One silent broker must not hide another that answers.
func TestPingSomeSilent(t *testing.T) {
	cluster := kafkatest.Start(t)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	brokers := append([]string{listener.Addr().String()}, cluster.ListenAddrs()...)
	if err := Ping(t.Context(), newClient(t, Config{Brokers: brokers})); err != nil {
		t.Error(err)
	}
}

func TestWaitReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network kfake.VirtualNetwork
		kafkatest.Start(t, kfake.Ports(9092), kfake.ListenFn(network.Listen))
		link := kafkatest.NewLink(network.DialContext)
		link.Cut()
		var journal kafkatest.Journal
		cl := newClient(t, Config{Dial: link.Dial, Logger: journal.Logger()})

		ready := make(chan error, 1)
		go func() { ready <- WaitReady(t.Context(), cl, journal.Logger()) }()
		<-time.After(time.Hour)
		synctest.Wait()
		select {
		case err := <-ready:
			t.Fatalf("returned without a broker: %v", err)
		default:
		}

		link.Restore()
		start := time.Now()
		if err := <-ready; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("noticed after %v", took)
		}
		want := []string{"WARN kafka unreachable, waiting for it", "INFO kafka reachable"}
		if got := journal.Lines(); !slices.Equal(got, want) {
			t.Errorf("log %q, want %q", got, want)
		}
	})
}

func TestWaitReadyIsSilentWhereKafkaIsThere(t *testing.T) {
	var journal kafkatest.Journal
	cl := newClient(t, Config{Brokers: kafkatest.Start(t).ListenAddrs(), Logger: journal.Logger()})
	if err := WaitReady(t.Context(), cl, journal.Logger()); err != nil {
		t.Fatal(err)
	}
	if got := journal.Lines(); len(got) > 0 {
		t.Errorf("log %q", got)
	}
}

func TestWaitReadyStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link := kafkatest.NewLink(nil)
		link.Cut()
		cl := newClient(t, Config{Dial: link.Dial})
		ctx, cancel := context.WithCancelCause(t.Context())
		ready := make(chan error, 1)
		go func() { ready <- WaitReady(ctx, cl, (&kafkatest.Journal{}).Logger()) }()
		<-time.After(time.Minute)
		stop := errors.New("stop")
		cancel(stop)
		if err := <-ready; !errors.Is(err, stop) {
			t.Errorf("got %v, want the cause", err)
		}
	})
}
