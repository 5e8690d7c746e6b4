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
	"time"

	"pelton/engine/wire"
)

// Config says for what the rights are. The zero value is what the shipped
// configuration is for.
type Config struct {
	// Namespace of the subjects; wire.DefaultNamespace unless set.
	Namespace wire.Namespace
	// Queues that every role may work with; "default" unless set.
	Queues []string
	// Lanes that these queues declare beside their plain ones; none unless set.
	Lanes []wire.Lane
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
	Answers   time.Duration // how long it may answer a request, once, wherever that says; not at all unless set
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
	for _, lane := range cfg.Lanes {
		if lane.Priority == wire.PriorityNone || !slices.Contains(cfg.Queues, lane.Queue) {
			return nil, &wire.NameError{Field: "lane", Value: lane.String(), Rule: "must be one of the queues with _high or _low"}
		}
	}
	for _, route := range cfg.Routes {
		if err := wire.CheckRoute(route); err != nil {
			return nil, err
		}
	}
	roles := []Role{
		publisher(cfg), trusted(cfg), waiter(cfg), canceller(cfg), worker(cfg), beater(cfg), scheduler(cfg), ingester(cfg), emitter(cfg), setup(cfg), janitor(cfg), observer(cfg), operator(cfg),
	}
	for i := range roles {
		roles[i].Subscribe = append(roles[i].Subscribe, Right{roles[i].Inbox() + ".>", "answers"})
	}
	return roles, nil
}

// names are the subjects and the streams of one queue.
type names struct {
	ns      wire.Namespace
	queue   string
	results string // stream
	lanes   []lane // the plain one first
	others  []lane // those that it does not declare
}

// lane is the streams and subjects of one lane.
type lane struct {
	wire.Lane
	ns           wire.Namespace
	tasks, later string // streams
}

// each gathers the rights to each queue.
func (cfg Config) each(rights func(n names) []Right) []Right {
	var all []Right
	for _, queue := range cfg.Queues {
		n := names{ns: cfg.Namespace, queue: queue, results: cfg.Namespace.ResultsStream(queue)}
		for _, priority := range []wire.Priority{wire.PriorityNone, wire.PriorityHigh, wire.PriorityLow} {
			l := wire.Lane{Queue: queue, Priority: priority}
			with := lane{l, n.ns, n.ns.TaskStream(l), n.ns.LaterStream(l)}
			if priority == wire.PriorityNone || slices.Contains(cfg.Lanes, l) {
				n.lanes = append(n.lanes, with)
			} else {
				n.others = append(n.others, with)
			}
		}
		all = append(all, rights(n)...)
	}
	return all
}

// eachLane gathers the rights to each lane of each queue.
func (cfg Config) eachLane(rights func(l lane) []Right) []Right {
	return cfg.each(func(n names) []Right { return n.each(rights) })
}

// each gathers the rights to each lane that the queue declares.
func (n names) each(rights func(l lane) []Right) []Right {
	var all []Right
	for _, l := range n.lanes {
		all = append(all, rights(l)...)
	}
	return all
}

// plain is the lane that every queue has.
func (n names) plain() lane { return n.lanes[0] }

// noLanes is the right to see, by a question to the API, that the other lanes
// are not there: who looks for something in a queue looks in every lane that it
// could have.
func (n names) noLanes(question string) []Right {
	var all []Right
	for _, l := range n.others {
		all = append(all, Right{api + question + l.tasks, absent})
	}
	return all
}

const absent = "see that this lane is not there"

// leader is the right to read any message of a stream from its leader, which
// never lags.
func leader(stream, why string) Right { return Right{api + "STREAM.MSG.GET." + stream, why} }

// lookup is the right to find a task wherever it is, with its body.
func (n names) lookup() []Right {
	of := n.each(func(l lane) []Right {
		return []Right{leader(l.tasks, "find a task that waits"), leader(l.later, "find one that waits for its time")}
	})
	return append(append(of, leader(n.results, "find a record")), n.noLanes("STREAM.MSG.GET.")...)
}

func (l lane) task(parts string) string { return string(l.ns) + ".task." + l.String() + parts }

// readTask is the right to read a task by its id, which must be known.
func (l lane) readTask(why string) Right {
	return Right{api + "DIRECT.GET." + l.tasks + "." + l.task(".*.*"), why}
}

// readLater is the right to read a task that waits for its time by its id.
func (l lane) readLater(why string) Right {
	return Right{api + "DIRECT.GET." + l.later + "." + l.ns.LaterSubject(l.Lane, "*"), why}
}

func (l lane) park(why string) Right { return Right{l.ns.LaterSubject(l.Lane, "*"), why} }

// records is the subject of all records.
func (n names) records() string { return n.ns.RecordSubject(n.queue, "*") }

// readRecords is the right to read any record, from any replica.
func (n names) readRecords() Right {
	return Right{api + "DIRECT.GET." + n.results + "." + n.records(), "read records"}
}

func (n names) heardRecords() Right { return Right{n.ns.DoneSubject(n.queue, "*"), "hear of outcomes"} }

// revoked is the subject of all revocations of the queue.
func (n names) revoked() string { return n.ns.RevokedSubject(n.queue, "*") }

// streamInfo is the right to see a stream's settings and counts.
func streamInfo(stream string) Right {
	return Right{api + "STREAM.INFO." + stream, "verify the stream"}
}

func consumerInfo(stream, durable string) Right {
	return Right{api + "CONSUMER.INFO." + stream + "." + durable, "verify the consumer"}
}

// verify is the right to see how a lane is set up.
func (l lane) verify() []Right {
	return []Right{
		streamInfo(l.tasks), streamInfo(l.later),
		consumerInfo(l.tasks, wire.WorkersDurable), consumerInfo(l.later, wire.DueDurable),
	}
}

const ownCopy = "know its own again when the confirmation was lost"

func publisher(cfg Config) Role {
	return Role{Name: "publisher", Does: "sends tasks", Publish: cfg.eachLane(func(l lane) []Right {
		return []Right{{l.task(".*"), "a task"}, {l.task(".*.*"), "a task with an id"}, l.readTask(ownCopy)}
	})}
}

func trusted(cfg Config) Role {
	const taken = "whether an id is taken"
	rights := cfg.each(func(n names) []Right {
		of := n.each(func(l lane) []Right {
			return []Right{
				l.park("a task for later"), l.readLater(ownCopy + "; " + taken),
				{api + "DIRECT.GET." + l.later + "." + l.ns.DueSubject(wire.Address{Lane: l.Lane, Task: "*", ID: "*"}), taken},
			}
		})
		for _, l := range n.others {
			of = append(of, l.readTask(absent))
		}
		return append(of, n.readRecords())
	})
	return Role{Name: "trusted", Does: "sends tasks, and schedules them in the broker", Publish: append(publisher(cfg).Publish, rights...)}
}

func waiter(cfg Config) Role {
	return Role{
		Name: "waiter", Does: "reads records and waits for them",
		Publish:   cfg.each(func(n names) []Right { return []Right{n.readRecords()} }),
		Subscribe: cfg.each(func(n names) []Right { return []Right{n.heardRecords()} }),
	}
}

func canceller(cfg Config) Role {
	return Role{Name: "canceller", Does: "cancels tasks and replaces those that wait for their time; sees bodies that wait", Publish: cfg.each(func(n names) []Right {
		of := append(n.lookup(), n.readRecords(),
			Right{n.records(), "write that a task is cancelled"},
			Right{n.revoked(), "tell the workers"},
			Right{n.ns.CanceledSubject(n.queue), "have the janitor remove it"})
		return append(of, n.each(func(l lane) []Right {
			return []Right{
				l.park("give a task another time"),
				{api + "STREAM.PURGE." + l.later, "remove what waited for its time"},
			}
		})...)
	})}
}

func worker(cfg Config) Role {
	revoked := cfg.Namespace.RevokedStream()
	rights := []Right{
		streamInfo(cfg.Namespace.DeadStream()), streamInfo(revoked),
		{"$JS.FC." + revoked + ".*.*", "keep up with revocations"},
		{api + "CONSUMER.DELETE." + revoked + ".*", "listen no more"},
	}
	rights = append(rights, cfg.each(func(n names) []Right {
		of := n.each(func(l lane) []Right {
			return append(l.verify(), []Right{
				{api + "CONSUMER.MSG.NEXT." + l.tasks + "." + wire.WorkersDurable, "fetch tasks"},
				{api + "CONSUMER.MSG.NEXT." + l.later + "." + wire.DueDurable, "fetch tasks that are due"},
				{"$JS.ACK." + l.tasks + "." + wire.WorkersDurable + ".>", "hold them, and be done with them"},
				{"$JS.ACK." + l.later + "." + wire.DueDurable + ".>", "the same of those that were due"},
				l.park("park a retry or a delayed task"),
			}...)
		})
		return append(of,
			streamInfo(n.results),
			n.readRecords(),
			Right{n.records(), "write records"},
			Right{n.ns.DeadSubject(n.queue, "*", "*"), "write dead letters"},
			Right{api + "CONSUMER.CREATE." + revoked + ".*." + n.revoked(), "hear of revocations"},
		)
	})...)
	return Role{Name: "worker", Does: "runs tasks", Publish: rights}
}

func beater(cfg Config) Role {
	rights := cfg.entries()
	rights = append(rights, cfg.each(func(n names) []Right {
		plain := n.plain()
		of := append(n.entries(), []Right{
			{plain.task(".*.*"), "tasks, each with its id"},
			{api + "STREAM.PURGE." + plain.tasks, "remove a task that is replaced"},
			{n.records(), "write that a task is replaced"},
			{n.revoked(), "tell the workers"},
			{api + "STREAM.PURGE." + plain.later, "remove a task that is replaced and waits for its time"},
		}...)
		return append(of, n.lookup()...)
	})...)
	return Role{Name: "beat", Does: "sends tasks at their times; sees bodies that wait, may empty a queue", Publish: rights}
}

func scheduler(cfg Config) Role {
	keys := cfg.Namespace.ScheduleSubject("*")
	rights := append(cfg.entries(),
		Right{keys, "add, change and remove entries"},
		Right{api + "DIRECT.GET." + cfg.Namespace.SchedulesStream() + "." + keys, "read one"})
	rights = append(rights, cfg.each(func(n names) []Right {
		return slices.Concat(n.entries(), []Right{{n.plain().task(".*"), "send the task of an entry once"}}, n.lookup())
	})...)
	return Role{Name: "scheduler", Does: "changes the entries of beat and looks at them; sees bodies that wait", Publish: rights}
}

// entries is the right to hear of the entries of beat.
func (cfg Config) entries() []Right {
	stream := cfg.Namespace.SchedulesStream()
	return []Right{
		streamInfo(stream),
		{api + "CONSUMER.CREATE." + stream + ".*." + cfg.Namespace.ScheduleSubject(">"), "hear of changes of entries"},
		{"$JS.FC." + stream + ".*.*", "keep up with them"},
		{api + "CONSUMER.DELETE." + stream + ".*", "listen no more"},
	}
}

// entries is the right to decide the entries that send to the queue, and to see
// what became of their tasks.
func (n names) entries() []Right {
	plain := n.plain()
	ledger := n.ns.LedgerSubject(plain.Lane, "beat", "*")
	return []Right{
		streamInfo(plain.tasks),
		{ledger, "up to where an entry is decided"},
		{api + "DIRECT.GET." + plain.tasks + "." + ledger, "read it"},
		{n.ns.ScheduleSubject("ledger." + n.queue + ".*"), "note that an entry has one"},
		n.readRecords(),
	}
}

func ingester(cfg Config) Role {
	return Role{Name: "ingest", Does: "makes tasks of Kafka records", Publish: cfg.each(func(n names) []Right {
		plain := n.plain()
		rights := []Right{streamInfo(plain.tasks), consumerInfo(plain.tasks, wire.WorkersDurable), {plain.task(".*"), "tasks"}}
		for _, route := range cfg.Routes {
			ledger := n.ns.LedgerSubject(plain.Lane, route, "*", "*")
			rights = append(rights,
				Right{ledger, "the position of route " + route},
				Right{api + "DIRECT.GET." + plain.tasks + "." + ledger, "read it"})
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
	rights := slices.Concat(stream(cfg.Namespace.DeadStream()), stream(cfg.Namespace.RevokedStream()), stream(cfg.Namespace.SchedulesStream()))
	rights = append(rights, cfg.each(func(n names) []Right {
		of := append(stream(n.results), n.each(func(l lane) []Right {
			return slices.Concat(stream(l.later), stream(l.tasks),
				consumer(l.later, wire.DueDurable, n.ns.DueFilter(l.Lane)),
				consumer(l.tasks, wire.WorkersDurable, n.ns.TaskFilter(l.Lane)))
		})...)
		for _, l := range n.others {
			of = append(of, Right{api + "STREAM.INFO." + l.later, "ids that must not be given again"})
		}
		return of
	})...)
	return Role{Name: "setup", Does: "makes streams, consumers and buckets; removes nothing", Publish: rights}
}

func janitor(cfg Config) Role {
	dead := cfg.Namespace.DeadStream()
	const find, remove = "find what was forgotten", "remove what was forgotten"
	rights := []Right{leader(dead, "read dead letters that are to run again"), {api + "STREAM.MSG.DELETE." + dead, "remove them"}}
	rights = append(rights, cfg.each(func(n names) []Right {
		of := n.each(func(l lane) []Right {
			return []Right{
				{api + "STREAM.INFO." + l.tasks, "see the ledgers"},
				{api + "STREAM.PURGE." + l.tasks, "remove old positions"},
				{api + "CONSUMER.INFO." + l.tasks + "." + wire.WorkersDurable, find},
				{api + "CONSUMER.INFO." + l.later + "." + wire.DueDurable, find},
				leader(l.tasks, find), leader(l.later, find),
				l.park("make it due again"),
				{api + "STREAM.MSG.DELETE." + l.tasks, remove},
				{api + "STREAM.MSG.DELETE." + l.later, remove},
			}
		})
		return append(of, leader(n.results, "see whether it is done with"), Right{n.records(), "say that it is queued again"})
	})...)
	return Role{
		Name: "janitor", Does: "trims ledgers, puts right tasks that were forgotten, has dead letters run again; may empty a queue",
		Publish: rights, Answers: time.Hour,
		Subscribe: cfg.each(func(n names) []Right {
			return []Right{
				{n.ns.CanceledSubject(n.queue), "hear of what is to be removed"},
				{n.ns.RedriveSubject(n.queue), "hear of what is to run again"},
			}
		}),
	}
}

func observer(cfg Config) Role {
	rights := []Right{
		{api + "INFO", "the account and its limits"},
		{api + "STREAM.NAMES", "find the queues"},
		streamInfo(cfg.Namespace.DeadStream()), streamInfo(cfg.Namespace.RevokedStream()), streamInfo(cfg.Namespace.SchedulesStream()),
	}
	rights = append(rights, cfg.each(func(n names) []Right {
		return append(n.each(lane.verify), streamInfo(n.results), n.readRecords())
	})...)
	return Role{
		Name: "observer", Does: "looks at streams, consumers and records, not at waiting bodies", Publish: rights,
		Subscribe: cfg.each(func(n names) []Right { return []Right{n.heardRecords()} }),
	}
}

func operator(cfg Config) Role {
	role := observer(cfg)
	role.Name, role.Does = "operator", "looks at everything, bodies that wait or died included; has dead letters run again"
	dead := cfg.Namespace.DeadStream()
	role.Publish = append(role.Publish,
		Right{"$SYS.REQ.USER.INFO", "tell its own rights"},
		Right{api + "DIRECT.GET." + dead, "count dead letters"},
		Right{api + "CONSUMER.CREATE." + dead + ".*." + cfg.Namespace.DeadFilter(""), "list dead letters"},
		Right{api + "CONSUMER.MSG.NEXT." + dead + ".*", "list dead letters"},
		Right{api + "CONSUMER.DELETE." + dead + ".*", "list dead letters"})
	role.Publish = append(role.Publish, cfg.each(func(n names) []Right {
		of := append(n.lookup(), n.noLanes("STREAM.INFO.")...)
		of = append(of, Right{n.ns.RedriveSubject(n.queue), "ask the janitor to run dead letters again"})
		return append(of, n.each(func(l lane) []Right {
			return []Right{
				{api + "DIRECT.GET." + l.tasks, "since when the oldest task waits"},
				{api + "DIRECT.GET." + l.later, "the same of those that are due"},
			}
		})...)
	})...)
	return role
}

// String is the role's name with what it does.
func (r Role) String() string { return fmt.Sprintf("%s: %s", r.Name, r.Does) }
