// Package doctor looks at an installation from outside and says what is wrong
// with it, each finding with what mends it.
//
// It stands beside the path and changes nothing on it. A check is one small
// function in the table of [checks]; it asks the brokers and returns what it
// has found.
package doctor

import (
	"context"
	"fmt"
	"time"

	"pelton/edges/emit"
	"pelton/edges/produce"
	"pelton/engine"
	"pelton/engine/topology"
)

// Level is how bad a finding is.
type Level string

// The levels. FAIL stands out in a table.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "FAIL"
)

// Finding is what a check has found.
type Finding struct {
	Level   Level  `json:"level"`
	Check   string `json:"check"`
	Finding string `json:"finding"`
	Fix     string `json:"fix,omitempty"` // a command or a setting
}

// Config says what there should be. Client has no default.
type Config struct {
	// Client of the broker; nil where it could not be reached, and then
	// Unreachable says why.
	Client      *engine.Client
	Unreachable error
	// Topology that the broker should hold.
	Topology topology.Topology
	// MonitorURL of the server's HTTP port; empty where nobody has named one.
	MonitorURL string
	// Kafka is looked at where Topics or Ledgers are named: the topics of the
	// routes, and the emit edges whose ledger topics are verified.
	Kafka   produce.Kafka
	Topics  []string
	Ledgers []emit.Config
	// Warnings of the settings, such as secrets that others may read.
	Warnings []string
	// Timeout of each check; 10 seconds unless set.
	Timeout time.Duration
	// Progress is told the name of each check before it begins.
	Progress func(check string)
}

// check is one thing to look at. It returns nothing where there is nothing to
// look at; an error means that it could not look.
type check struct {
	name   string
	needs  need
	look   func(context.Context, Config) ([]Finding, error)
	remedy string // where it could not look
}

type need int

const (
	nothing need = iota
	broker       // of NATS
)

// checks are all of them, in the order in which they are shown.
var checks = []check{
	{"settings", nothing, settings, ""},
	{"nats", nothing, connection, "pelton doctor --nats-url URL"},
	{"jetstream", broker, account, "enable jetstream in the server's configuration, and for the account"},
	{"streams", broker, streams, "pelton setup plan"},
	{"durability", broker, durability, "set nats.monitor_url to the server's HTTP port, such as http://127.0.0.1:8222"},
	{"clock", broker, clock, "pelton setup apply"},
	{"permissions", broker, permissions, "allow $SYS.REQ.USER.INFO, or ignore this"},
	{"worker", broker, workers, "pelton queue ls"},
	{"orphans", broker, orphans, "pelton setup plan"},
	{"ledgers", broker, ledgers, "pelton setup plan"},
	{"later", broker, later, "pelton setup plan"},
	{"dead", broker, dead, "pelton setup plan"},
	{"kafka", nothing, kafka, "pelton doctor --kafka HOST:PORT"},
}

// Run makes all checks, one after the other. Each is bounded by Timeout, so that
// it always comes to an end.
func Run(ctx context.Context, cfg Config) []Finding {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	var all []Finding
	for _, c := range checks {
		if cfg.Progress != nil {
			cfg.Progress(c.name)
		}
		all = append(all, c.run(ctx, cfg)...)
	}
	return all
}

func (c check) run(ctx context.Context, cfg Config) []Finding {
	if c.needs == broker && cfg.Client == nil {
		return []Finding{{Warn, c.name, "skipped, because nats is not reachable", ""}}
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	found, err := c.look(ctx, cfg)
	for i := range found {
		found[i].Check = c.name
	}
	if err != nil {
		found = append(found, Finding{Fail, c.name, err.Error(), c.remedy})
	}
	return found
}

// Worst is the highest level among findings.
func Worst(found []Finding) Level {
	worst := OK
	for _, f := range found {
		if f.Level == Fail || f.Level == Warn && worst == OK {
			worst = f.Level
		}
	}
	return worst
}

// note makes a finding; the check's name is filled in later.
func note(level Level, fix, format string, args ...any) Finding {
	return Finding{Level: level, Finding: fmt.Sprintf(format, args...), Fix: fix}
}

// settings repeats what the settings warn of.
func settings(_ context.Context, cfg Config) ([]Finding, error) {
	var found []Finding
	for _, warning := range cfg.Warnings {
		found = append(found, note(Warn, "pelton config check", "%s", warning))
	}
	return found, nil
}
