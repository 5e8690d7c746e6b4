// Package permissions is what each role may do at the broker: the subjects it
// publishes to and hears, and no more.
//
// It stands beside the path. The broker's configuration that is shipped in
// deployments/nats is written from here, and the tests hold it against what the
// roles do: each does its work with exactly these rights, and without any one
// of them it does not.
package permissions

import (
	"fmt"
	"slices"

	"pelton/engine/wire"
)

// Config says for what the rights are. The zero value is what the shipped
// configuration is for.
type Config struct {
	// Namespace of the subjects; wire.DefaultNamespace unless set.
	Namespace wire.Namespace
	// Queues that every role may work with; "default" unless set.
	Queues []string
	// Routes of ingest, which keep their ledgers apart by name; "commands"
	// unless set.
	Routes []string
}

// Role is a user of the broker.
type Role struct {
	Name      string // of the user; its inbox is _INBOX_<name>
	Does      string // in one line
	Publish   []Right
	Subscribe []Right
}

// Right is a subject, wildcards included, and what it is needed for.
type Right struct {
	Subject string
	For     string
}

// Inbox is the prefix of a user's inbox: no other user may listen there.
func (r Role) Inbox() string { return "_INBOX_" + r.Name }

const api = "$JS.API."

// Roles are the users. Errors name the value and the rule.
func Roles(cfg Config) ([]Role, error) {
	if cfg.Namespace == "" {
		cfg.Namespace = wire.DefaultNamespace
	}
	if len(cfg.Queues) == 0 {
		cfg.Queues = []string{"default"}
	}
	if len(cfg.Routes) == 0 {
		cfg.Routes = []string{"commands"}
	}
	if _, err := wire.ParseNamespace(string(cfg.Namespace)); err != nil {
		return nil, err
	}
	for _, queue := range cfg.Queues {
		if err := wire.CheckQueue(queue); err != nil {
			return nil, err
		}
	}
	for _, route := range cfg.Routes {
		if err := wire.CheckRoute(route); err != nil {
			return nil, err
		}
	}
	roles := []Role{
		publisher(cfg), trusted(cfg), waiter(cfg), worker(cfg), ingester(cfg), emitter(cfg), setup(cfg), janitor(cfg), observer(cfg), operator(cfg),
	}
	for i := range roles {
		roles[i].Subscribe = append(roles[i].Subscribe, Right{roles[i].Inbox() + ".>", "answers"})
	}
	return roles, nil
}

// names are the streams and subjects of one queue.
type names struct {
	ns                    wire.Namespace
	queue                 string
	lane                  wire.Lane
	tasks, later, results string // streams
}

// each gathers the rights to each queue.
func (cfg Config) each(rights func(n names) []Right) []Right {
	var all []Right
	for _, queue := range cfg.Queues {
		lane := wire.PlainLane(queue)
		all = append(all, rights(names{
			cfg.Namespace, queue, lane,
			cfg.Namespace.TaskStream(lane), cfg.Namespace.LaterStream(lane), cfg.Namespace.ResultsStream(queue),
		})...)
	}
	return all
}

func (n names) task(parts string) string { return string(n.ns) + ".task." + n.queue + parts }

// records is the subject of all records.
func (n names) records() string { return n.ns.RecordSubject(n.queue, "*") }

// readRecords is the right to read any record, from any replica.
func (n names) readRecords() Right {
	return Right{api + "DIRECT.GET." + n.results + "." + n.records(), "read records"}
}

func (n names) heardRecords() Right { return Right{n.ns.DoneSubject(n.queue, "*"), "hear of outcomes"} }

// streamInfo is the right to see a stream's settings and counts.
func streamInfo(stream string) Right {
	return Right{api + "STREAM.INFO." + stream, "verify the stream"}
}

func consumerInfo(stream, durable string) Right {
	return Right{api + "CONSUMER.INFO." + stream + "." + durable, "verify the consumer"}
}

func publisher(cfg Config) Role {
	return Role{Name: "publisher", Does: "sends tasks", Publish: cfg.each(func(n names) []Right {
		return []Right{{n.task(".*"), "a task"}, {n.task(".*.*"), "a task with an id"}}
	})}
}

func trusted(cfg Config) Role {
	later := cfg.each(func(n names) []Right { return []Right{{n.ns.LaterSubject(n.lane, "*"), "a task for later"}} })
	return Role{Name: "trusted", Does: "sends tasks, and schedules them in the broker", Publish: append(publisher(cfg).Publish, later...)}
}

func waiter(cfg Config) Role {
	return Role{
		Name: "waiter", Does: "reads records and waits for them",
		Publish:   cfg.each(func(n names) []Right { return []Right{n.readRecords()} }),
		Subscribe: cfg.each(func(n names) []Right { return []Right{n.heardRecords()} }),
	}
}

func worker(cfg Config) Role {
	rights := []Right{streamInfo(cfg.Namespace.DeadStream())}
	rights = append(rights, cfg.each(func(n names) []Right {
		return []Right{
			streamInfo(n.tasks), streamInfo(n.later), streamInfo(n.results),
			consumerInfo(n.tasks, wire.WorkersDurable), consumerInfo(n.later, wire.DueDurable),
			{api + "CONSUMER.MSG.NEXT." + n.tasks + "." + wire.WorkersDurable, "fetch tasks"},
			{api + "CONSUMER.MSG.NEXT." + n.later + "." + wire.DueDurable, "fetch tasks that are due"},
			{"$JS.ACK." + n.tasks + "." + wire.WorkersDurable + ".>", "hold them, and be done with them"},
			{"$JS.ACK." + n.later + "." + wire.DueDurable + ".>", "the same of those that were due"},
			n.readRecords(),
			{n.records(), "write records"},
			{n.ns.LaterSubject(n.lane, "*"), "park a retry or a delayed task"},
			{n.ns.DeadSubject(n.queue, "*", "*"), "write dead letters"},
		}
	})...)
	return Role{Name: "worker", Does: "runs tasks", Publish: rights}
}

func ingester(cfg Config) Role {
	return Role{Name: "ingest", Does: "makes tasks of Kafka records", Publish: cfg.each(func(n names) []Right {
		rights := []Right{streamInfo(n.tasks), consumerInfo(n.tasks, wire.WorkersDurable), {n.task(".*"), "tasks"}}
		for _, route := range cfg.Routes {
			ledger := n.ns.LedgerSubject(n.lane, route, "*", "*")
			rights = append(rights,
				Right{ledger, "the position of route " + route},
				Right{api + "DIRECT.GET." + n.tasks + "." + ledger, "read it"})
		}
		return rights
	})}
}

func emitter(cfg Config) Role {
	return Role{Name: "emit", Does: "makes Kafka records of results", Publish: cfg.each(func(n names) []Right {
		return []Right{
			streamInfo(n.results),
			{api + "CONSUMER.CREATE." + n.results + ".*", "a consumer of its own"},
			{api + "CONSUMER.INFO." + n.results + ".*", "see whether it is behind"},
			{api + "CONSUMER.MSG.NEXT." + n.results + ".*", "read results"},
			{api + "CONSUMER.DELETE." + n.results + ".*", "remove its consumer"},
		}
	})}
}

func setup(cfg Config) Role {
	stream := func(name string) []Right {
		return []Right{
			{api + "STREAM.INFO." + name, "see what is there"},
			{api + "STREAM.CREATE." + name, "make it"},
			{api + "STREAM.UPDATE." + name, "mend it"},
		}
	}
	consumer := func(stream, durable, filter string) []Right {
		return []Right{
			{api + "CONSUMER.INFO." + stream + "." + durable, "see what is there"},
			{api + "CONSUMER.CREATE." + stream + "." + durable + "." + filter, "make it, mend it"},
		}
	}
	rights := stream(cfg.Namespace.DeadStream())
	rights = append(rights, cfg.each(func(n names) []Right {
		of := slices.Concat(stream(n.results), stream(n.later), stream(n.tasks),
			consumer(n.later, wire.DueDurable, n.ns.DueFilter(n.lane)),
			consumer(n.tasks, wire.WorkersDurable, n.ns.TaskFilter(n.lane)))
		for _, priority := range []wire.Priority{wire.PriorityHigh, wire.PriorityLow} {
			lane := wire.Lane{Queue: n.queue, Priority: priority}
			of = append(of, Right{api + "STREAM.INFO." + n.ns.LaterStream(lane), "ids that must not be given again"})
		}
		return of
	})...)
	return Role{Name: "setup", Does: "makes streams, consumers and buckets; removes nothing", Publish: rights}
}

func janitor(cfg Config) Role {
	return Role{Name: "janitor", Does: "trims ledgers; may empty a queue", Publish: cfg.each(func(n names) []Right {
		return []Right{
			{api + "STREAM.INFO." + n.tasks, "find the stream"},
			{api + "STREAM.PURGE." + n.tasks, "remove old positions"},
		}
	})}
}

func observer(cfg Config) Role {
	rights := []Right{
		{api + "INFO", "the account and its limits"},
		{api + "STREAM.NAMES", "find the queues"},
		streamInfo(cfg.Namespace.DeadStream()),
	}
	rights = append(rights, cfg.each(func(n names) []Right {
		return []Right{
			streamInfo(n.tasks), streamInfo(n.later), streamInfo(n.results),
			consumerInfo(n.tasks, wire.WorkersDurable), consumerInfo(n.later, wire.DueDurable),
			n.readRecords(),
		}
	})...)
	return Role{
		Name: "observer", Does: "looks at streams, consumers and records, not at waiting bodies", Publish: rights,
		Subscribe: cfg.each(func(n names) []Right { return []Right{n.heardRecords()} }),
	}
}

func operator(cfg Config) Role {
	role := observer(cfg)
	role.Name, role.Does = "operator", "looks at everything, bodies that wait or died included"
	dead := cfg.Namespace.DeadStream()
	role.Publish = append(role.Publish,
		Right{api + "DIRECT.GET." + dead, "count dead letters"},
		Right{api + "CONSUMER.CREATE." + dead + ".*." + cfg.Namespace.DeadFilter(""), "list dead letters"},
		Right{api + "CONSUMER.MSG.NEXT." + dead + ".*", "list dead letters"},
		Right{api + "CONSUMER.DELETE." + dead + ".*", "list dead letters"})
	role.Publish = append(role.Publish, cfg.each(func(n names) []Right {
		return []Right{
			{api + "DIRECT.GET." + n.tasks, "since when the oldest task waits"},
			{api + "DIRECT.GET." + n.later, "the same of those that are due"},
		}
	})...)
	return role
}

// String is the role's name with what it does.
func (r Role) String() string { return fmt.Sprintf("%s: %s", r.Name, r.Does) }
