package permissions

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"pelton/engine/enginetest"
)

var update = flag.Bool("update", false, "write the shipped files anew")

const (
	shipped = "../../deployments/nats/permissions.conf"
	manual  = "../../docs/security.md"
)

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestShipped holds the shipped file against the roles.
func TestShipped(t *testing.T) {
	t.Parallel()
	var want bytes.Buffer
	if err := Write(&want, rolesIn(t, ""), ""); err != nil {
		t.Fatal(err)
	}
	if *update {
		write(t, shipped, want.String())
	}
	if diff := cmp.Diff(want.String(), read(t, shipped)); diff != "" {
		t.Errorf("%s (run with -update to accept):\n%s", shipped, diff)
	}
}

// TestManual holds the table of the manual against the roles.
func TestManual(t *testing.T) {
	t.Parallel()
	const begin, end = "<!-- rights -->\n", "<!-- end of rights -->\n"
	text := read(t, manual)
	before, rest, found := strings.Cut(text, begin)
	table, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s: no table of rights", manual)
	}
	want := rightsTable(rolesIn(t, ""))
	if *update {
		write(t, manual, before+begin+want+end+after)
		table = want
	}
	if diff := cmp.Diff(want, table); diff != "" {
		t.Errorf("%s (run with -update to accept):\n%s", manual, diff)
	}
}

// rightsTable is the rights in Markdown. The inbox is the same for all.
func rightsTable(roles []Role) string {
	var b strings.Builder
	b.WriteString("| role | publishes to | hears |\n|---|---|---|\n")
	list := func(rights []Right, without string) string {
		var subjects []string
		for _, r := range rights {
			if r.Subject != without {
				subjects = append(subjects, "`"+r.Subject+"`")
			}
		}
		if len(subjects) == 0 {
			return "–"
		}
		return strings.Join(subjects, "<br>")
	}
	for _, r := range roles {
		fmt.Fprintf(&b, "| `%s` %s | %s | %s |\n", r.Name, r.Does, list(r.Publish, ""), list(r.Subscribe, r.Inbox()+".>"))
	}
	return b.String()
}

// TestPasswords loads the shipped file as it is, with the passwords in the
// environment.
func TestPasswords(t *testing.T) {
	roles := rolesIn(t, "")
	cfg := enginetest.ServerConfig{StoreDir: t.TempDir(), ConfigFile: shipped}
	if s, err := enginetest.NewServer(cfg); err == nil {
		s.Stop()
		t.Fatal("the server starts without passwords")
	}
	for _, r := range roles {
		t.Setenv(strings.TrimPrefix(Variable(r.Name), "$"), password(r.Name))
	}
	// In place of one, its bcrypt hash will do.
	t.Setenv("NATS_WORKER_PASSWORD", "$2a$04$MHABfNLFaQPOvHX812fn5.xFYf9Pqjf4dFlzeeXMPrSXCGWCia9ni") // of-worker
	s, err := enginetest.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	for _, r := range roles {
		login := func(pw string) error {
			nc, err := nats.Connect(s.URL(), nats.UserInfo(r.Name, pw), nats.Timeout(10*time.Second))
			if err == nil {
				nc.Close()
			}
			return err
		}
		if err := login(password(r.Name)); err != nil {
			t.Errorf("%s: %v", r.Name, err)
		}
		if login("wrong") == nil {
			t.Errorf("%s: any password will do", r.Name)
		}
	}
	if nc, err := nats.Connect(s.URL(), nats.Timeout(10*time.Second)); err == nil {
		nc.Close()
		t.Error("nobody in particular may connect")
	}
}

func TestSeveralQueues(t *testing.T) {
	t.Parallel()
	roles, err := Roles(Config{Namespace: "acme", Queues: []string{"mail", "slow"}, Routes: []string{"orders", "clicks"}})
	if err != nil {
		t.Fatal(err)
	}
	var conf bytes.Buffer
	if err := Write(&conf, roles, ""); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{
		"acme.task.mail.*", "acme.task.slow.*.*", "acme.ledger.mail.clicks.*.*", "acme.ledger.slow.orders.*.*", "$JS.API.STREAM.INFO.ACME_DEAD",
		"$JS.ACK.ACME_TASKS_slow.workers.>", "$KV.ACME_RESULTS_mail.*",
	} {
		if !strings.Contains(conf.String(), `"`+subject+`"`) {
			t.Errorf("%s is missing", subject)
		}
	}
	if text := strings.ToLower(conf.String()); strings.Contains(text, "default") || strings.Contains(text, "pelton.task") {
		t.Error("rights to what nobody asked for")
	}
}

func TestBadNames(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]Config{
		`namespace "a.b": must match`: {Namespace: "a.b"},
		`queue "*": must match`:       {Queues: []string{"default", "*"}},
		`route ">": must match`:       {Routes: []string{">"}},
	} {
		if _, err := Roles(cfg); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
