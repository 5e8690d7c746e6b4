//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// canary stands for the bot's token: nothing may tell it.
const canary = "canary-MTk4NjIyNDgzNDcx"

// component is a folder of the system that is replaced: its .env and its
// logging_config.json, as they are.
type component struct {
	env     string // %s is the broker's address
	logging string
}

// kafkaComponent has the producer and the consumer with their Celery tasks,
// botComponent the two Discord bots.
var (
	kafkaComponent = component{
		env: "# Kafka\nKAFKA_BOOTSTRAP_SERVERS=%s\nCOMMANDS_TOPIC=orders\n\n# Consumer\nCONSUMER_GROUP=printers\nAUTO_OFFSET_RESET=earliest\nCELERY_BROKER_URL=redis://localhost:6379/0\n",
		logging: `{
  "version": 1,
  "disable_existing_loggers": false,
  "formatters": {"standard": {"format": "%(asctime)s - %(levelname)s - %(name)s - %(message)s"}},
  "handlers": {
    "console": {"class": "logging.StreamHandler", "level": "WARNING", "formatter": "standard", "stream": "ext://sys.stderr"},
    "file": {"class": "logging.handlers.RotatingFileHandler", "level": "DEBUG", "formatter": "standard", "filename": "component.log", "maxBytes": 1048576, "backupCount": 3}
  },
  "loggers": {"confluent_kafka": {"level": "WARNING"}, "celery": {"level": "INFO"}},
  "root": {"level": "INFO", "handlers": ["console", "file"]}
}
`,
	}
	botComponent = component{
		env: "export DISCORD_TOKEN='" + canary + "'\r\nANNOUNCEMENT_CHANNEL_ID=\"1298002\"\r\nKAFKA_BOOTSTRAP_SERVERS = %s\r\nCOMMANDS_TOPIC='orders'",
		logging: `{
  "version": 1,
  "formatters": {"plain": {"format": "%(asctime)s - %(levelname)s - %(name)s - %(message)s"}},
  "filters": {"own": {"name": "bot"}},
  "handlers": {
    "out": {"class": "logging.StreamHandler", "formatter": "plain", "level": "ERROR"},
    "keep": {"class": "logging.FileHandler", "formatter": "plain", "filename": "component.log", "filters": ["own"]}
  },
  "loggers": {"nextcord": {"level": "WARNING", "handlers": ["out"]}},
  "root": {"level": "INFO", "handlers": ["out", "keep"]}
}
`,
	}
)

// both is what a process says, on either output.
type both struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *both) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *both) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// place makes a component's folder.
func (w *world) place(c component) string {
	w.t.Helper()
	dir := w.t.TempDir()
	for name, text := range map[string]string{".env": fmt.Sprintf(c.env, w.kafka.ListenAddrs()[0]), "logging_config.json": c.logging} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

// in starts a command in a folder, with nothing in its environment but where
// NATS is, which the system that is replaced did not have.
func (w *world) in(dir string, out *both, args ...string) *exec.Cmd {
	w.t.Helper()
	cmd := exec.CommandContext(context.Background(), w.binary, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = []string{"NATS_URL=" + w.nats.URL(), "HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

// pythonLine is a line as Python's logging writes it by that format.
var pythonLine = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - (DEBUG|INFO|WARNING|ERROR) - [a-z]+ - \S`)

// Whoever has a .env and a logging_config.json beside each component starts
// Pelton's in the same folder: with not one flag they read and write the same
// topic of the same broker, and log to the same file in the same form.
func TestTheFilesOfTheOriginal(t *testing.T) {
	for name, c := range map[string]component{"kafka": kafkaComponent, "bots": botComponent} {
		t.Run(name, func(t *testing.T) {
			const messages = 20
			w := newWorld(t, kfake.SeedTopics(2, "orders"))
			said := map[string]*both{"edge ingest": {}, "worker": {}, "produce": {}}
			folders, roles := map[string]string{}, []*exec.Cmd{}
			for _, role := range []string{"edge ingest", "worker"} {
				folders[role] = w.place(c)
				roles = append(roles, w.in(folders[role], said[role], strings.Fields(role)...))
			}
			folders["produce"] = w.place(c)
			produce := w.in(folders["produce"], said["produce"], "produce", "--message", "from the original", "--count", fmt.Sprint(messages), "--rate", "100/s")
			if err := produce.Wait(); err != nil {
				t.Fatalf("produce: %v\n%s", err, said["produce"])
			}
			printed := func() int { return strings.Count(said["worker"].String(), "from the original") }
			w.until("each message printed", time.Minute, func() bool { return printed() >= messages })
			for _, role := range roles {
				if err := role.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				if err := role.Wait(); err != nil {
					t.Errorf("%v: %v", role.Args, err)
				}
			}
			if n := printed(); n != messages {
				t.Errorf("%d messages were printed, %d were sent", n, messages)
			}
			for role, out := range said {
				log, err := os.ReadFile(filepath.Join(folders[role], "component.log"))
				if err != nil {
					t.Errorf("%s: %v", role, err)
				}
				if role != "produce" && !pythonLine.Match(log) { // what goes well is nothing to log there
					t.Errorf("%s logs otherwise:\n%s", role, log)
				}
				if strings.Contains(string(log)+out.String(), canary) {
					t.Errorf("%s tells the token:\n%s%s", role, log, out)
				}
			}
		})
	}
}
