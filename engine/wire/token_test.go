package wire_test

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pelton/engine/wire"
)

// names are the checks of single names with the expression that each error
// message promises.
var names = []struct {
	field   string
	rule    string
	check   func(string) error
	pattern *regexp.Regexp
}{
	{"namespace", wire.RuleNamespace, func(s string) error { _, err := wire.ParseNamespace(s); return err }, regexp.MustCompile(`\A[a-z0-9][a-z0-9-]{0,31}\z`)},
	{"queue", wire.RuleQueue, wire.CheckQueue, regexp.MustCompile(`\A[a-z0-9][a-z0-9-]{0,63}\z`)},
	{"task", wire.RuleTask, wire.CheckTask, regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9_-]{0,63}\z`)},
	{"id", wire.RuleID, wire.CheckID, regexp.MustCompile(`\A[A-Za-z0-9_=-]{1,128}\z`)},
	{"route", wire.RuleRoute, wire.CheckRoute, regexp.MustCompile(`\A[a-z0-9][a-z0-9-]{0,63}\z`)},
	{"queue", wire.RuleLane, func(s string) error { _, err := wire.ParseLane(s); return err }, regexp.MustCompile(`\A[a-z0-9][a-z0-9-]{0,63}(_high|_low)?\z`)},
}

func TestNames(t *testing.T) {
	accepted := map[string][]string{
		"namespace": {"pelton", "a", "0", "acme-2", strings.Repeat("n", 32)},
		"queue":     {"default", "a", "7", "a-", "mail-2", strings.Repeat("q", 64)},
		"task":      {"print", "Print", "a", "0_x", "a-b_C", wire.TaskDead, wire.TaskInvalid, strings.Repeat("t", 64)},
		"id":        {"a", "-", "_", "=", "mail-1", "orders=eu=a-3-7-g2", strings.Repeat("i", 128)},
		"route":     {"commands", "a", "7-", strings.Repeat("r", 64)},
	}
	refused := map[string][]string{
		"namespace": {"Pelton", "-a", "a_b", strings.Repeat("n", 33)},
		"queue":     {"Email", "-a", "a_b", "a_High", "a__low", "_high", "a_high_low", "a=", strings.Repeat("q", 65)},
		"task":      {"_a", "-a", "a=b", strings.Repeat("t", 65)},
		"id":        {"a.b", strings.Repeat("i", 129)},
		"route":     {"Orders", "a.b", "a_b", "-a", strings.Repeat("r", 65)},
	}
	for _, n := range names {
		t.Run(n.rule, func(t *testing.T) {
			for _, value := range accepted[n.field] {
				if err := n.check(value); err != nil {
					t.Errorf("%s: %v", value, err)
				}
			}
			for _, value := range append(refused[n.field], hostile...) {
				mustSay(t, n.check(value), fmt.Sprintf("%s %q: %s", n.field, cut(value), n.rule))
			}
		})
	}
}

// cut is how much of a value an error repeats.
func cut(value string) string {
	if len(value) > 80 {
		return value[:80] + "…"
	}
	return value
}

// TestNamesMatchTheirRule compares the checks with the expressions that they
// tell users.
func TestNamesMatchTheirRule(t *testing.T) {
	for _, n := range names {
		t.Run(n.rule, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				value := rapid.OneOf(
					rapid.StringMatching(n.pattern.String()),
					rapid.StringMatching(`[A-Za-z0-9_=.*>-]{0,70}`),
					rapid.String(),
				).Draw(t, "value")
				err := n.check(value)
				if want := n.pattern.MatchString(value); (err == nil) != want {
					t.Fatalf("%q: %v, but the rule says %t", value, err, want)
				}
			})
		})
	}
}

func TestErrorTexts(t *testing.T) {
	for want, err := range map[string]error{
		`queue "Email": must match [a-z0-9][a-z0-9-]{0,63}`: wire.CheckQueue("Email"),
		`id "": must match [A-Za-z0-9_=-]{1,128}`:           wire.CheckID(""),
		`task "a\nb": must match [A-Za-z0-9][A-Za-z0-9_-]{0,63}`: wire.CheckTask(
			"a\nb"),
		`queue "` + strings.Repeat("A", 80) + `…": must match [a-z0-9][a-z0-9-]{0,63}`: wire.CheckQueue(strings.Repeat("A", 1<<20)),
		`id "mail-7": must not look like a free id of its queue, <queue>-<digits>`:     wire.CheckExplicitID("mail", "mail-7"),
	} {
		mustSay(t, err, want)
	}
	if errors.Is(errors.New("other"), wire.ErrInvalidName) {
		t.Error("any error is an invalid name")
	}
}

func TestParseLane(t *testing.T) {
	for token, want := range map[string]wire.Lane{
		"mail":      wire.PlainLane("mail"),
		"mail_high": {Queue: "mail", Priority: wire.PriorityHigh},
		"mail_low":  {Queue: "mail", Priority: wire.PriorityLow},
	} {
		lane, err := wire.ParseLane(token)
		if err != nil || lane != want || lane.String() != token {
			t.Errorf("%s: %+v, %v", token, lane, err)
		}
	}
	for _, token := range []string{"mail_", "mail_urgent", "mail_high_low", "mail_HIGH", "_high", "mail_high.", "mail high"} {
		_, err := wire.ParseLane(token)
		mustSay(t, err, fmt.Sprintf("queue %q: %s", token, wire.RuleLane))
	}
}

// The generators of legal names.
var (
	anyNamespace = rapid.Map(rapid.StringMatching(`[a-z0-9][a-z0-9-]{0,31}`), func(s string) wire.Namespace { return wire.Namespace(s) })
	anyQueue     = rapid.StringMatching(`[a-z0-9][a-z0-9-]{0,63}`)
	anyTask      = rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9_-]{0,63}`)
	anyID        = rapid.StringMatching(`[A-Za-z0-9_=-]{1,128}`)
	anyLane      = rapid.Custom(func(t *rapid.T) wire.Lane {
		return wire.Lane{
			Queue:    anyQueue.Draw(t, "queue"),
			Priority: rapid.SampledFrom([]wire.Priority{wire.PriorityNone, wire.PriorityHigh, wire.PriorityLow}).Draw(t, "priority"),
		}
	})
	anyAddress = rapid.Custom(func(t *rapid.T) wire.Address {
		return wire.Address{Lane: anyLane.Draw(t, "lane"), Task: anyTask.Draw(t, "task"), ID: anyID.Draw(t, "id")}
	})
)

func TestLaneRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyLane.Draw(t, "lane")
		if got, err := wire.ParseLane(want.String()); err != nil || got != want {
			t.Fatalf("%v became %v, %v", want, got, err)
		}
	})
}
