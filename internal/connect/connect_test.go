package connect

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"pelton/edges/produce"
	"pelton/engine/enginetest"
	"pelton/internal/config"
	"pelton/internal/connect/connecttest"
)

// settings of an environment and of flags, --nats-url=…, --creds=…, --context=….
func settings(t *testing.T, env []string, args ...string) *config.Config {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	for name, key := range map[string]string{"nats-url": "nats.url", "creds": "nats.creds_file", "context": "nats.context"} {
		flags.String(name, "", "")
		config.Bind(flags, name, key)
	}
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Options{Environ: env, Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// home has contexts of the nats command line, and one that is selected.
func home(t *testing.T, selected string, contexts map[string]string) []string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range contexts {
		connecttest.File(t, filepath.Join(dir, "nats", "context"), name+".json", []byte(text))
	}
	if selected != "" {
		connecttest.File(t, filepath.Join(dir, "nats"), "context.txt", []byte(selected+"\n"))
	}
	return []string{"XDG_CONFIG_HOME=" + dir}
}

func TestWhichServer(t *testing.T) {
	t.Parallel()
	contexts := map[string]string{
		"prod": `{"description":"x","url":"nats://prod:4222","user":"joe","password":"canary-pw","inbox_prefix":"_INBOX_joe"}`,
		"lab":  `{"url":"nats://lab:4222"}`,
	}
	for _, tc := range []struct {
		name string
		env  []string
		args []string
		who  Who
		want string
	}{
		{"a flag wins over all", []string{"NATS_URL=nats://env:1", "PELTON_NATS__CONTEXT=prod"}, []string{"--nats-url=nats://flag:1"}, Client, "nats://flag:1"},
		{"NATS_URL over NATS_CONTEXT", []string{"NATS_CONTEXT=prod", "NATS_URL=nats://env:1"}, nil, Client, "nats://env:1"},
		{"a flag over NATS_URL", []string{"NATS_URL=nats://env:1"}, []string{"--context=prod"}, Client, "nats://prod:4222 (context prod)"},
		{"a context over the settings", []string{"PELTON_NATS__URL=nats://own:1"}, []string{"--context=prod"}, Client, "nats://prod:4222 (context prod)"},
		{"a context of the settings", []string{"PELTON_NATS__CONTEXT=lab"}, nil, Role, "nats://lab:4222 (context lab)"},
		{"the settings over what is selected", []string{"PELTON_NATS__URL=nats://own:1"}, nil, Client, "nats://own:1"},
		{"credentials alone are settings, too", []string{"PELTON_NATS__TOKEN=t"}, nil, Client, "nats://127.0.0.1:4222"},
		{"a client follows what is selected", nil, nil, Client, "nats://lab:4222 (context lab)"},
		{"a role does not", nil, nil, Role, "nats://127.0.0.1:4222"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			env := append(home(t, "lab", contexts), tc.env...)
			got, err := FromSettings(settings(t, env, tc.args...), env, tc.who)
			if err != nil || got.Name != tc.want {
				t.Fatalf("%+v, %v, want %s", got, err, tc.want)
			}
		})
	}
}

// A mistake names the place, the key, the value and the rule, and no secret.
func TestBadSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := connecttest.NewAuthority(t, "ca")
	cert, key := ca.Issue("joe").Write(t, dir, "joe")
	_, other := ca.Issue("ann").Write(t, dir, "ann")
	text := connecttest.File(t, dir, "text", []byte("canary-9c1"))
	env := home(t, "", map[string]string{
		"prod": `{}`, "broken": `{"url":`, "nsc": `{"nsc":"nsc://a/b/c"}`, "ca": `{"ca":"~/none.pem"}`,
		"url": `{"url":"http://joe:canary-9c1@host"}`, "two": `{"creds":"a","token":"canary-9c1"}`,
	})
	env = append(env, "HOME="+dir)
	for _, tc := range []struct {
		env  []string
		args []string
		want []string // parts of the error
	}{
		{[]string{"PELTON_NATS__TLS__CA_FILE=/none.pem"}, nil, []string{"PELTON_NATS__TLS__CA_FILE: nats.tls.ca_file must name a file, there is none, got /none.pem"}},
		{[]string{"PELTON_NATS__TLS__CA_FILE=" + text}, nil, []string{"PELTON_NATS__TLS__CA_FILE: nats.tls.ca_file must name a PEM file with a certificate", text}},
		{[]string{"PELTON_NATS__TLS__CA_FILE=" + dir}, nil, []string{"must name a file that can be read", dir}},
		{[]string{"PELTON_NATS__TLS__CERT_FILE=" + cert, "PELTON_NATS__TLS__KEY_FILE=" + other}, nil, []string{"nats.tls.cert_file must be a PEM certificate that the key in " + other + " fits", cert}},
		{[]string{"PELTON_NATS__TLS__CERT_FILE=" + text, "PELTON_NATS__TLS__KEY_FILE=" + key}, nil, []string{"must be a PEM certificate"}},
		{[]string{"PELTON_NATS__CREDS_FILE=/none.creds"}, nil, []string{"nats.creds_file must name a file, there is none, got /none.creds"}},
		{nil, []string{"--creds=" + text}, []string{"--creds: nats.creds_file must be a credentials file", text}},
		{[]string{"PELTON_NATS__NKEY_FILE=" + text}, nil, []string{"nats.nkey_file must hold the seed of a user's nkey"}},
		{[]string{"PELTON_NATS__JETSTREAM_DOMAIN=a.b"}, nil, []string{"nats.jetstream_domain must be empty: name a server of that domain"}},
		{nil, []string{"--context=prd"}, []string{"--context: nats.context is no context in", "did you mean prod?"}},
		{nil, []string{"--context=zzzzzz"}, []string{"there are broken, ca, nsc, prod, two, url"}},
		{nil, []string{"--context=../prod"}, []string{"must be the name of a context"}},
		{nil, []string{"--context=broken"}, []string{"broken.json: must be a JSON object"}},
		{nil, []string{"--context=nsc"}, []string{"nsc.json: nsc is not understood"}},
		{nil, []string{"--context=ca"}, []string{"ca.json: nats.tls.ca_file must name a file, there is none, got " + filepath.Join(dir, "none.pem")}},
		{nil, []string{"--context=url"}, []string{"url.json: url must be nats://host:port"}},
		{nil, []string{"--context=two"}, []string{"two.json: nats.token must not stand beside nats.creds_file"}},
	} {
		t.Run(tc.want[0], func(t *testing.T) {
			t.Parallel()
			env := append(append([]string{}, env...), tc.env...)
			_, err := FromSettings(settings(t, env, tc.args...), env, Client)
			if !errors.Is(err, config.ErrInvalid) {
				t.Fatalf("taken, or another error: %v", err)
			}
			for _, part := range tc.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s\nlacks %s", err, part)
				}
			}
			if strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "\n") {
				t.Errorf("tells a secret, or has several lines: %s", err)
			}
		})
	}
}

func TestBadKafka(t *testing.T) {
	t.Parallel()
	for env, want := range map[string]string{
		"PELTON_KAFKA__TLS__CA_FILE=/none.pem": "PELTON_KAFKA__TLS__CA_FILE: kafka.tls.ca_file must name a file, there is none, got /none.pem",
	} {
		_, _, err := Kafka(settings(t, []string{env}), nil)
		if !errors.Is(err, config.ErrInvalid) || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// natsServer runs a broker with a configuration.
func natsServer(t *testing.T, conf string) *enginetest.Server {
	t.Helper()
	dir := t.TempDir()
	s, err := enginetest.NewServer(enginetest.ServerConfig{StoreDir: filepath.Join(dir, "store"), ConfigFile: connecttest.File(t, dir, "nats.conf", []byte(conf))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func address(s *enginetest.Server) string {
	_, after, _ := strings.Cut(s.URL(), "://")
	return after
}

// dial connects as settings say, once.
func dial(t *testing.T, env []string, args ...string) (*nats.Conn, error) {
	t.Helper()
	to, err := FromSettings(settings(t, env, args...), env, Client)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(to.URL, append(to.Options(), nats.Timeout(10*time.Second))...)
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

func TestCredentialsOfNATS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	seed, public := newUser(t)
	seedFile := connecttest.File(t, dir, "joe.nk", seed)
	users := fmt.Sprintf(`authorization { users: [ {user: joe, password: right}, {nkey: %s} ] }`, public)
	for _, tc := range []struct {
		name, conf string
		env        []string
		ok         bool
	}{
		{"user", users, []string{"PELTON_NATS__USER=joe", "PELTON_NATS__PASSWORD=right"}, true},
		{"user, wrong password", users, []string{"PELTON_NATS__USER=joe", "PELTON_NATS__PASSWORD=wrong"}, false},
		{"nobody", users, nil, false},
		{"nkey", users, []string{"PELTON_NATS__NKEY_FILE=" + seedFile}, true},
		{"token", `authorization { token: "right" }`, []string{"PELTON_NATS__TOKEN=right"}, true},
		{"wrong token", `authorization { token: "right" }`, []string{"PELTON_NATS__TOKEN=wrong"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := natsServer(t, tc.conf)
			_, err := dial(t, append(tc.env, "NATS_URL=nats://"+address(s)))
			if tc.ok && err != nil || !tc.ok && !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestInboxPrefixIsUsed(t *testing.T) {
	t.Parallel()
	s := natsServer(t, `authorization { users: [ {user: joe, password: pw, permissions: {subscribe: "_INBOX_joe.>"}} ] }`)
	env := []string{"NATS_URL=nats://" + address(s), "PELTON_NATS__USER=joe", "PELTON_NATS__PASSWORD=pw"}
	for _, tc := range []struct {
		env []string
		ok  bool
	}{{[]string{"PELTON_NATS__INBOX_PREFIX=_INBOX_joe"}, true}, {nil, false}} {
		nc, err := dial(t, append(tc.env, env...))
		if err != nil {
			t.Fatal(err)
		}
		js, err := nc.JetStream(nats.MaxWait(2 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.AccountInfo(); (err == nil) != tc.ok {
			t.Errorf("with %v: %v", tc.env, err)
		}
	}
}

func TestTLSOfNATS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, foreign := connecttest.NewAuthority(t, "ca"), connecttest.NewAuthority(t, "foreign")
	caFile := connecttest.File(t, dir, "ca.pem", ca.PEM())
	foreignFile := connecttest.File(t, dir, "foreign.pem", foreign.PEM())
	serverCert, serverKey := ca.Issue("localhost").Write(t, dir, "server")
	namedCert, namedKey := ca.Issue("nats.example").Write(t, dir, "named")
	joeCert, joeKey := ca.Issue("joe").Write(t, dir, "joe")
	evilCert, evilKey := foreign.Issue("joe").Write(t, dir, "evil")
	tlsOf := func(cert, key, more string) string {
		return fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, %s }", cert, key, caFile, more)
	}
	plain := tlsOf(serverCert, serverKey, "")
	mutual := tlsOf(serverCert, serverKey, "verify: true")
	pair := func(cert, key string) []string {
		return []string{"PELTON_NATS__TLS__CA_FILE=" + caFile, "PELTON_NATS__TLS__CERT_FILE=" + cert, "PELTON_NATS__TLS__KEY_FILE=" + key}
	}
	for _, tc := range []struct {
		name, conf string
		env        []string
		want       string // of the error; empty for none
	}{
		{"its CA", plain, []string{"PELTON_NATS__TLS__CA_FILE=" + caFile}, ""},
		{"another CA", plain, []string{"PELTON_NATS__TLS__CA_FILE=" + foreignFile}, "name its CA in nats.tls.ca_file"},
		{"not configured", plain, nil, "name its CA in nats.tls.ca_file"},
		{"on without a CA", plain, []string{"PELTON_NATS__TLS__ENABLED=true"}, "name its CA in nats.tls.ca_file"},
		{"another name", tlsOf(namedCert, namedKey, ""), []string{"PELTON_NATS__TLS__CA_FILE=" + caFile}, "nats.tls.server_name"},
		{"the name given", tlsOf(namedCert, namedKey, ""), []string{"PELTON_NATS__TLS__CA_FILE=" + caFile, "PELTON_NATS__TLS__SERVER_NAME=nats.example"}, ""},
		{"mutual", mutual, pair(joeCert, joeKey), ""},
		{"mutual, none shown", mutual, []string{"PELTON_NATS__TLS__CA_FILE=" + caFile}, "see nats.tls.cert_file"},
		{"mutual, a foreign one", mutual, pair(evilCert, evilKey), "see nats.tls.cert_file"},
		{"not on the server", "", []string{"PELTON_NATS__TLS__ENABLED=true"}, "the server does not encrypt"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := natsServer(t, tc.conf)
			_, err := dial(t, append(tc.env, "NATS_URL=nats://"+address(s)))
			final, explained := Explain(err)
			switch {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && (!final || !strings.Contains(explained.Error(), tc.want)):
				t.Errorf("%v, final %t, want %s", explained, final, tc.want)
			}
		})
	}
}

func TestAContextConnects(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := connecttest.NewAuthority(t, "ca")
	caFile := connecttest.File(t, dir, "ca.pem", ca.PEM())
	cert, key := ca.Issue("localhost").Write(t, dir, "server")
	s := natsServer(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }\nauthorization { user: joe, password: pw }", cert, key, caFile))
	text, err := json.Marshal(map[string]string{"url": "nats://" + address(s), "user": "joe", "password": "pw", "ca": "$CERTS/ca.pem", "cert": "~/server.pem", "key": key})
	if err != nil {
		t.Fatal(err)
	}
	env := append(home(t, "", map[string]string{"prod": string(text)}), "HOME="+dir, "CERTS="+dir)
	if _, err := dial(t, env, "--context=prod"); err != nil {
		t.Error(err)
	}
}

// The server gets certificates of a new authority. Who has reloaded theirs comes
// in, who has not stays out; those that were broken are not taken.
func TestCertificatesAreReloaded(t *testing.T) {
	t.Parallel()
	for _, reload := range []bool{true, false} {
		t.Run(fmt.Sprintf("reload %t", reload), func(t *testing.T) {
			t.Parallel()
			r := newRotation(t)
			nc, err := nats.Connect(r.to.URL, append(r.to.Options(), r.options()...)...)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			<-r.tried // the first
			r.write()
			if reload {
				r.reload()
			}
			if err := r.server.Restart(); err != nil {
				t.Fatal(err)
			}
			if reload {
				r.wait(r.back)
				return
			}
			for range 3 {
				r.wait(r.tried)
			}
			select {
			case <-r.back:
				t.Error("it came back with the certificates of before: nothing is shown")
			default:
			}
		})
	}
}

// rotation is a server with mutual TLS whose files are going to change.
type rotation struct {
	t      *testing.T
	dir    string
	server *enginetest.Server
	to     *NATS
	back   chan struct{}
	tried  chan struct{} // a handshake was begun
}

func newRotation(t *testing.T) *rotation {
	t.Helper()
	r := &rotation{t: t, dir: t.TempDir(), back: make(chan struct{}, 1), tried: make(chan struct{}, 1)}
	r.write()
	file := func(name string) string { return filepath.Join(r.dir, name) }
	r.server = natsServer(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }", file("server.pem"), file("server-key.pem"), file("ca.pem")))
	env := []string{
		"NATS_URL=nats://" + address(r.server),
		"PELTON_NATS__TLS__CA_FILE=" + file("ca.pem"), "PELTON_NATS__TLS__CERT_FILE=" + file("client.pem"), "PELTON_NATS__TLS__KEY_FILE=" + file("client-key.pem"),
	}
	var err error
	if r.to, err = FromSettings(settings(t, env), env, Role); err != nil {
		t.Fatal(err)
	}
	return r
}

// write makes a new authority and all that it signs.
func (r *rotation) write() {
	ca := connecttest.NewAuthority(r.t, "ca")
	connecttest.File(r.t, r.dir, "ca.pem", ca.PEM())
	ca.Issue("localhost").Write(r.t, r.dir, "server")
	ca.Issue("client").Write(r.t, r.dir, "client")
}

// reload first meets a broken file, which must change nothing.
func (r *rotation) reload() {
	r.t.Helper()
	good := r.to.Certificates.held.Load()
	r.to.Certificates.files.CAFile = filepath.Join(r.dir, "none.pem")
	if err := r.to.Certificates.Reload(); !errors.Is(err, config.ErrInvalid) || r.to.Certificates.held.Load() != good {
		r.t.Errorf("a file that is missing: %v, or the old ones are gone", err)
	}
	r.to.Certificates.files.CAFile = filepath.Join(r.dir, "ca.pem")
	if err := r.to.Certificates.Reload(); err != nil {
		r.t.Error(err)
	}
}

func (r *rotation) options() []nats.Option {
	return []nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond), nats.ReconnectJitter(0, 0), nats.Timeout(10 * time.Second),
		nats.ReconnectHandler(func(*nats.Conn) { r.back <- struct{}{} }),
		func(o *nats.Options) error {
			trusted := o.RootCAsCB
			o.RootCAsCB = func() (*x509.CertPool, error) {
				select {
				case r.tried <- struct{}{}:
				default:
				}
				return trusted()
			}
			return nil
		},
	}
}

func (r *rotation) wait(signal <-chan struct{}) {
	r.t.Helper()
	select {
	case <-signal:
	case <-time.After(20 * time.Second):
		r.t.Fatal("nothing happens")
	}
}

// kafkaCluster speaks TLS, by the certificate that get returns at each connection.
func kafkaCluster(t *testing.T, ca *connecttest.Authority, get func() tls.Certificate, more ...kfake.Opt) string {
	t.Helper()
	cluster, err := kfake.NewCluster(append(more, kfake.NumBrokers(1), kfake.SeedTopics(1, "commands"), kfake.TLS(&tls.Config{
		MinVersion: tls.VersionTLS12,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { c := get(); return &c, nil },
	}))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	// kfake hangs up on a stranger; Kafka says why.
	cluster.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		auth, ok := req.(*kmsg.SASLAuthenticateRequest)
		if !ok || !bytes.Contains(auth.SASLAuthBytes, []byte("stranger")) {
			return nil, nil, false
		}
		resp, ok := auth.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		if ok {
			resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
		}
		return resp, nil, ok
	})
	return strings.Join(cluster.ListenAddrs(), ",")
}

func TestKafkaWithTLSAndSASL(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := connecttest.NewAuthority(t, "ca")
	caFile := connecttest.File(t, dir, "ca.pem", ca.PEM())
	cert, key := ca.Issue("joe").Write(t, dir, "joe")
	server := ca.Issue("localhost").TLS(t)
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		brokers := kafkaCluster(t, ca, func() tls.Certificate { return server }, kfake.EnableSASL(), kfake.Superuser(strings.ToUpper(mechanism), "joe", "right"))
		all := []string{
			"KAFKA_BOOTSTRAP_SERVERS=" + brokers, "PELTON_KAFKA__SASL__MECHANISM=" + mechanism, "PELTON_KAFKA__SASL__USER=joe", "PELTON_KAFKA__SASL__PASSWORD=right",
			"PELTON_KAFKA__TLS__CA_FILE=" + caFile, "PELTON_KAFKA__TLS__CERT_FILE=" + cert, "PELTON_KAFKA__TLS__KEY_FILE=" + key,
		}
		replaced := func(i int, by string) []string {
			env := append([]string{}, all...)
			env[i] = by
			return env
		}
		for _, tc := range []struct {
			name string
			env  []string
			want error
		}{
			{"right", all, nil},
			{"a stranger", replaced(2, "PELTON_KAFKA__SASL__USER=stranger"), produce.ErrRefused},
			{"no certificate", all[:5], produce.ErrRefused},
			{"the system's CAs", append(replaced(4, "PELTON_KAFKA__TLS__ENABLED=true"), ""), produce.ErrRefused},
		} {
			if err := produceOnce(t, tc.env); tc.want == nil && err != nil || tc.want != nil && !errors.Is(err, tc.want) || err != nil && strings.Contains(err.Error(), "right") {
				t.Errorf("%s, %s: %v, want %v", mechanism, tc.name, err, tc.want)
			}
		}
	}
}

func produceOnce(t *testing.T, env []string) error {
	t.Helper()
	kafka, _, err := Kafka(settings(t, env), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p, err := produce.New(produce.Config{Kafka: kafka, Topic: "commands", Source: produce.Literal("hi"), ConnectTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return p.Run(ctx)
}

// The broker's certificate is of a new authority: who reloads trusts it.
func TestKafkaCertificatesAreReloaded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, next := connecttest.NewAuthority(t, "ca"), connecttest.NewAuthority(t, "next")
	caFile := connecttest.File(t, dir, "ca.pem", ca.PEM())
	cert, key := ca.Issue("joe").Write(t, dir, "joe")
	server := ca.Issue("localhost").TLS(t)
	brokers := kafkaCluster(t, ca, func() tls.Certificate { return server })
	_, certs, err := Kafka(settings(t, []string{
		"KAFKA_BOOTSTRAP_SERVERS=" + brokers,
		"PELTON_KAFKA__TLS__CA_FILE=" + caFile, "PELTON_KAFKA__TLS__CERT_FILE=" + cert, "PELTON_KAFKA__TLS__KEY_FILE=" + key,
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	shakes := func() error {
		conn, err := certs.Dial(t.Context(), "tcp", brokers)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	if err := shakes(); err != nil {
		t.Fatal(err)
	}
	server = next.Issue("localhost").TLS(t)
	connecttest.File(t, dir, "ca.pem", next.PEM())
	if err := shakes(); err == nil {
		t.Error("without a reload it trusts the new authority: nothing is shown")
	}
	if err := certs.Reload(); err != nil {
		t.Fatal(err)
	}
	if err := shakes(); err != nil {
		t.Errorf("after a reload: %v", err)
	}
}

func TestDialIsBounded(t *testing.T) {
	t.Parallel()
	ca := connecttest.NewAuthority(t, "ca")
	certs, err := LoadCertificates(settings(t, nil), "kafka.tls", config.TLS{CAFile: connecttest.File(t, t.TempDir(), "ca.pem", ca.PEM())})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // of the test
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	if _, err := certs.Dial(t.Context(), "tcp", listener.Addr().String()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a peer that never answers: %v", err)
	}
}
