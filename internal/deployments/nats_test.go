package deployments

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The server of the files, on other ports and in another folder.
func TestServerOfTheFiles(t *testing.T) {
	opts, err := process(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if opts.HTTPHost != "127.0.0.1" || opts.HTTPPort == 0 {
		t.Errorf("monitoring on %s:%d asks for no password and must be on the loopback", opts.HTTPHost, opts.HTTPPort)
	}
	if opts.SyncInterval != time.Second || opts.SyncAlways {
		t.Errorf("sync interval %v, always %v; the docs say one second", opts.SyncInterval, opts.SyncAlways)
	}
	if len(opts.Users) == 0 || opts.NoAuthUser != "" {
		t.Errorf("%d users, %q needs no password", len(opts.Users), opts.NoAuthUser)
	}
	url := start(t, opts)
	nc, err := nats.Connect(url, nats.UserInfo("worker", "p-worker"), nats.CustomInboxPrefix("_INBOX_worker"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nats.Connect(url); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a stranger connects: %v", err)
	}
	if _, err := nats.Connect(url, nats.UserInfo("worker", "guess")); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a guessed password connects: %v", err)
	}
}

// JetStream is on, and keeps what it stores in the folder of the server.
func TestServerOfTheFilesStores(t *testing.T) {
	opts, err := process(t, map[string]string{"include './permissions.conf'": ""})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(start(t, opts))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Storage: jetstream.FileStorage}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(ctx, "s", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(opts.StoreDir, "jetstream")); err != nil {
		t.Errorf("nothing is stored in its folder: %v", err)
	}
}

// The control: the server refuses files that are changed.
func TestServerRefusesWhatIsPlanted(t *testing.T) {
	for _, tc := range []struct{ old, planted, want string }{
		{"sync_interval:", "sync_intervall:", "sync_intervall"},
		{"store_dir:", "storedirectory:", "storedirectory"},
		{"include './permissions.conf'", "include './users.conf'", "users.conf"},
		{"sync_interval: 1s", "sync_interval: often", "sync_interval"},
	} {
		if _, err := process(t, map[string]string{tc.old: tc.planted}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q in place of %q: %v", tc.planted, tc.old, err)
		}
	}
}

var password = regexp.MustCompile(`\$(NATS_[A-Z]+_PASSWORD)`)

// process reads a copy of the server's configuration, in which texts are
// replaced, as the server does that is started with it.
func process(t *testing.T, replace map[string]string) (*server.Options, error) {
	t.Helper()
	dir := t.TempDir()
	conf := read(t, "nats-server.conf")
	for from, to := range replace {
		if !strings.Contains(conf, from) {
			t.Fatalf("%q is not there to be replaced", from)
		}
		conf = strings.Replace(conf, from, to, 1)
	}
	users := read(t, "permissions.conf")
	for _, m := range password.FindAllStringSubmatch(users, -1) {
		t.Setenv(m[1], "p-"+strings.ToLower(strings.Split(m[1], "_")[1]))
	}
	for name, text := range map[string]string{"nats-server.conf": conf, "permissions.conf": users} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	opts, err := server.ProcessConfigFile(filepath.Join(dir, "nats-server.conf"))
	if err == nil {
		opts.StoreDir = filepath.Join(dir, "store")
	}
	return opts, err
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deployments", "nats", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func start(t *testing.T, opts *server.Options) (url string) {
	t.Helper()
	opts.Host, opts.Port, opts.HTTPPort, opts.NoSigs, opts.NoLog = "127.0.0.1", server.RANDOM_PORT, server.RANDOM_PORT, true, true
	ns, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() {
		ns.Shutdown()
		ns.WaitForShutdown()
	})
	if !ns.ReadyForConnections(20*time.Second) || !ns.JetStreamEnabled() {
		t.Fatal("the server is not ready, or has no JetStream")
	}
	return ns.ClientURL()
}
