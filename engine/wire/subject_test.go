package wire_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pelton/engine/wire"
)

func TestSubjectsGolden(t *testing.T) {
	var b strings.Builder
	for _, ns := range []wire.Namespace{wire.DefaultNamespace, "acme-2"} {
		for _, lane := range []wire.Lane{wire.PlainLane("mail"), {Queue: "mail", Priority: wire.PriorityHigh}} {
			free := wire.Address{Lane: lane, Task: "resize"}
			named := wire.Address{Lane: lane, Task: "resize", ID: "order-77"}
			for _, line := range [][2]string{
				{"task", ns.TaskSubject(free)},
				{"task with an id", ns.TaskSubject(named)},
				{"task filter", ns.TaskFilter(lane)},
				{"ledger", ns.LedgerSubject(lane, "kin", "commands", "3")},
				{"ledger filter", ns.LedgerFilter(lane)},
				{"task stream", ns.TaskStream(lane)},
				{"later", ns.LaterSubject(lane, "order-77")},
				{"later filter", ns.LaterFilter(lane)},
				{"due", ns.DueSubject(named)},
				{"due filter", ns.DueFilter(lane)},
				{"later stream", ns.LaterStream(lane)},
				{"free id", wire.FreeID(lane, 41)},
			} {
				fmt.Fprintf(&b, "%-22s %s\n", line[0], line[1])
			}
		}
		for _, line := range [][2]string{
			{"dead letter", ns.DeadSubject("mail", "resize", "order-77")},
			{"dead filter of a queue", ns.DeadFilter("mail")},
			{"dead filter", ns.DeadFilter("")},
			{"dead stream", ns.DeadStream()},
			{"record", ns.RecordSubject("mail", "order-77")},
			{"results bucket", ns.ResultsBucket("mail")},
			{"results stream", ns.ResultsStream("mail")},
			{"done", ns.DoneSubject("mail", "order-77")},
			{"canceled", ns.CanceledSubject("mail")},
			{"redrive", ns.RedriveSubject("mail")},
		} {
			fmt.Fprintf(&b, "%-22s %s\n", line[0], line[1])
		}
	}
	fmt.Fprintf(&b, "%-22s %s\n%-22s %s\n", "durable of tasks", wire.WorkersDurable, "durable of due tasks", wire.DueDurable)
	mustEqualGolden(t, "subjects.txt", []byte(b.String()))
}

func TestParseTask(t *testing.T) {
	ns := wire.DefaultNamespace
	for subject, want := range map[string]wire.Address{
		"pelton.task.mail.print":             {Lane: wire.PlainLane("mail"), Task: "print"},
		"pelton.task.mail.print.order-77":    {Lane: wire.PlainLane("mail"), Task: "print", ID: "order-77"},
		"pelton.task.mail_low.Print_it.mail": {Lane: wire.Lane{Queue: "mail", Priority: wire.PriorityLow}, Task: "Print_it", ID: "mail"},
		"pelton.task.mail.pelton-dead.a=b":   {Lane: wire.PlainLane("mail"), Task: wire.TaskDead, ID: "a=b"},
	} {
		if got, err := ns.ParseTask(subject); err != nil || got != want {
			t.Errorf("%s: %+v, %v", subject, got, err)
		}
	}
	for subject, want := range map[string]string{
		"":                        `subject "": must begin with pelton.task.`,
		"pelton":                  `subject "pelton": must begin with pelton.task.`,
		"pelton.task":             `subject "pelton.task": must begin with pelton.task.`,
		"Pelton.task.mail.a":      `subject "Pelton.task.mail.a": must begin with pelton.task.`,
		"acme.task.mail.a":        `subject "acme.task.mail.a": must begin with pelton.task.`,
		"pelton.due.mail.a":       `subject "pelton.due.mail.a": must begin with pelton.task.`,
		"pelton.task.":            `queue "": ` + wire.RuleLane,
		"pelton.task.mail":        `task "": ` + wire.RuleTask,
		"pelton.task.mail.":       `task "": ` + wire.RuleTask,
		"pelton.task..print":      `queue "": ` + wire.RuleLane,
		"pelton.task.Mail.print":  `queue "Mail": ` + wire.RuleLane,
		"pelton.task.*.print":     `queue "*": ` + wire.RuleLane,
		"pelton.task.>":           `queue ">": ` + wire.RuleLane,
		"pelton.task.mail.*":      `task "*": ` + wire.RuleTask,
		"pelton.task.mail.>":      `task ">": ` + wire.RuleTask,
		"pelton.task.mail.a\n":    `task "a\n": ` + wire.RuleTask,
		"pelton.task.mail.a.":     `id "": ` + wire.RuleID,
		"pelton.task.mail.a.b.c":  `id "b.c": ` + wire.RuleID,
		"pelton.task.mail.a.b.":   `id "b.": ` + wire.RuleID,
		"pelton.task.mail.a.>":    `id ">": ` + wire.RuleID,
		"pelton.task.mail.a..b":   `id ".b": ` + wire.RuleID,
		"pelton.task.mail_x.a":    `queue "mail_x": ` + wire.RuleLane,
		"pelton.task.mail_high..": `task "": ` + wire.RuleTask,
	} {
		got, err := ns.ParseTask(subject)
		mustSay(t, err, want)
		if got != (wire.Address{}) {
			t.Errorf("%q: %+v beside the error", subject, got)
		}
	}
}

func TestParseDueAndDead(t *testing.T) {
	ns := wire.DefaultNamespace
	want := wire.Address{Lane: wire.PlainLane("mail"), Task: "print", ID: "a"}
	if got, err := ns.ParseDue("pelton.due.mail.print.a"); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := ns.ParseDead("pelton.dead.mail.print.a"); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	_, err := ns.ParseDue("pelton.due.mail.print")
	mustSay(t, err, `id "": `+wire.RuleID)
	_, err = ns.ParseDead("pelton.dead.mail.print.")
	mustSay(t, err, `id "": `+wire.RuleID)
	_, err = ns.ParseDue("pelton.task.mail.print.a")
	mustSay(t, err, `subject "pelton.task.mail.print.a": must begin with pelton.due.`)
}

func TestSubjectRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ns, a := anyNamespace.Draw(t, "namespace"), anyAddress.Draw(t, "address")
		free := a
		free.ID = ""
		for _, round := range []struct {
			subject string
			parse   func(string) (wire.Address, error)
			want    wire.Address
		}{
			{ns.TaskSubject(a), ns.ParseTask, a},
			{ns.TaskSubject(free), ns.ParseTask, free},
			{ns.DueSubject(a), ns.ParseDue, a},
			{ns.DeadSubject(a.Lane.String(), a.Task, a.ID), ns.ParseDead, a},
		} {
			if got, err := round.parse(round.subject); err != nil || got != round.want {
				t.Fatalf("%s became %+v, %v", round.subject, got, err)
			}
			if strings.ContainsAny(round.subject, "*> \t\r\n") || strings.Contains(round.subject, "..") {
				t.Fatalf("%q is no subject", round.subject)
			}
		}
	})
}

func FuzzParseTask(f *testing.F) {
	for _, s := range append([]string{"mail.print", "mail.print.order-77", "mail_high.print.a", "mail..a", "mail.print.", "Mail.a", "mail.>", "*.a"}, hostile...) {
		f.Add("pelton.task." + s)
		f.Add(s)
	}
	ns := wire.DefaultNamespace
	f.Fuzz(func(t *testing.T, subject string) {
		a, err := ns.ParseTask(subject)
		if err != nil {
			mustSay(t, err, err.Error())
			if len(err.Error()) > 600 {
				t.Errorf("the error repeats %d bytes", len(err.Error()))
			}
			return
		}
		// Parsers accept exactly what builders produce.
		if again := ns.TaskSubject(a); again != subject {
			t.Errorf("%q is read as %+v, which is %q", subject, a, again)
		}
	})
}
