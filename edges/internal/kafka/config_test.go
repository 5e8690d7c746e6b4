package kafka

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/internal/secret"
)

func TestConfigErrorsNameKeyValueAndRule(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"no port", Config{Brokers: []string{"x"}}, `kafka.brokers[0]: "x": must be host:port`},
		{"empty", Config{Brokers: []string{"a:1", ""}}, `kafka.brokers[1]: "": must be host:port`},
		{"no host", Config{Brokers: []string{":9092"}}, `kafka.brokers[0]: ":9092": must be host:port`},
		{"port 0", Config{Brokers: []string{"a:0"}}, `kafka.brokers[0]: "a:0": must be host:port`},
		{"large port", Config{Brokers: []string{"a:65536"}}, `kafka.brokers[0]: "a:65536": must be host:port`},
		{"named port", Config{Brokers: []string{"a:kafka"}}, `kafka.brokers[0]: "a:kafka": must be host:port`},
		{"a list in one", Config{Brokers: []string{"a:1,b:2"}}, `kafka.brokers[0]: "a:1,b:2": must be host:port`},
		{"a space", Config{Brokers: []string{" a:1"}}, `kafka.brokers[0]: " a:1": must be host:port`},
		{"a scheme", Config{Brokers: []string{"kafka://a:1"}}, `kafka.brokers[0]: "kafka://a:1": must be host:port`},
		{
			"client id",
			Config{ClientID: strings.Repeat("i", 257)},
			`kafka.client_id: "` + strings.Repeat("i", 257) + `": must have at most 256 bytes`,
		},
		{
			"two dialers",
			Config{
				TLS:  &tls.Config{MinVersion: tls.VersionTLS13},
				Dial: func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed },
			},
			"kafka.tls: must be empty where a dialer is given",
		},
		{
			"mechanism",
			Config{SASL: SASL{Mechanism: "gssapi", User: "u", Password: secret.New("p")}},
			`kafka.sasl.mechanism: "gssapi": must be plain, scram-sha-256 or scram-sha-512`,
		},
		{
			"user alone",
			Config{SASL: SASL{User: "u"}},
			`kafka.sasl.mechanism: "": must be set where a user or password is`,
		},
		{
			"no user",
			Config{SASL: SASL{Mechanism: "plain", Password: secret.New("p")}},
			`kafka.sasl.user: "": must not be empty with mechanism plain`,
		},
		{
			"no password",
			Config{SASL: SASL{Mechanism: "SCRAM-SHA-256", User: "u"}},
			`kafka.sasl.password: must not be empty with mechanism SCRAM-SHA-256`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := tt.cfg.Options(); err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if cl, err := New(tt.cfg); err == nil {
				cl.Close()
				t.Error("New accepts it")
			}
		})
	}
}

func TestConfigValid(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{Brokers: []string{"[::1]:9092", "kafka-0.kafka.svc:9093"}, ClientID: "x"},
		{TLS: &tls.Config{MinVersion: tls.VersionTLS13}},
		{SASL: SASL{"plain", "u", secret.New("p")}},
		{SASL: SASL{"SCRAM-SHA-256", "u", secret.New("p")}},
		{SASL: SASL{"scram-sha-512", "u", secret.New("p")}},
	} {
		opts, err := cfg.Options()
		if err != nil {
			t.Errorf("%+v: %v", cfg, err)
		}
		if err := kgo.ValidateOpts(opts...); err != nil {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestZeroConfigIsThisMachine(t *testing.T) {
	cl, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if got := seeds(cl); got != "127.0.0.1:9092" {
		t.Errorf("brokers %s", got)
	}
}

func TestOptionsLeaveTheConfigAlone(t *testing.T) {
	brokers := make([]string, 0, 4)
	cfg := Config{Brokers: append(brokers, "a:1")}
	cl, err := New(cfg, kgo.SeedBrokers("b:2"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if got := seeds(cl); got != "b:2" {
		t.Errorf("later options do not win: %s", got)
	}
	if !slices.Equal(cfg.Brokers, []string{"a:1"}) {
		t.Errorf("brokers became %q", cfg.Brokers)
	}
}

func TestPasswordIsNotPrinted(t *testing.T) {
	cfg := Config{SASL: SASL{Mechanism: "plain", User: "pelton", Password: secret.New("hunter2")}}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, cfg); strings.Contains(got, "hunter2") {
			t.Errorf("%s prints it: %s", format, got)
		}
	}
	if got := cfg.SASL.LogValue().String(); got != "plain as pelton" {
		t.Errorf("logged as %q", got)
	}
	if got := (SASL{}).String(); got != "none" {
		t.Errorf("no credentials print as %q", got)
	}
}

func TestBackoffGrowsToASecond(t *testing.T) {
	for failures := range 100 {
		want := min(backoffMin<<min(max(failures-1, 0), 10), backoffMax)
		for range 50 {
			if got := backoff(failures); got > want || got < want*3/4 {
				t.Fatalf("after %d failures %v, want within 25%% below %v", failures, got, want)
			}
		}
	}
	if backoff(1<<40) > time.Second {
		t.Error("more than a second")
	}
}
