package wire_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pelton/engine/wire"
)

func TestFreeID(t *testing.T) {
	high := wire.Lane{Queue: "mail", Priority: wire.PriorityHigh}
	for want, lane := range map[string]wire.Lane{"mail-41": wire.PlainLane("mail"), "mail_high-41": high, "a-1-41": wire.PlainLane("a-1"), "a--41": wire.PlainLane("a-")} {
		if id := wire.FreeID(lane, 41); id != want {
			t.Errorf("FreeID(%v, 41) = %s", lane, id)
		}
		if l, sequence, ok := wire.ParseFreeID(want); !ok || l != lane || sequence != 41 {
			t.Errorf("ParseFreeID(%s) = %v, %d, %t", want, l, sequence, ok)
		}
	}
	for _, id := range append([]string{
		"mail", "mail-", "mail-0", "mail-007", "mail-+7", "mail--", "mail-7a", "mail-0x7", "mail-1_000", "mail-７", "mail-7 ", "mail- 7",
		"Mail-7", "mail_urgent-7", "mail_-7", "-7", "7", "mail=a-7", "mail-18446744073709551616", "mail-7.", "mail.x-7",
	}, hostile...) {
		if l, sequence, ok := wire.ParseFreeID(id); ok {
			t.Errorf("ParseFreeID(%q) = %v, %d", id, l, sequence)
		}
	}
}

func TestFreeIDRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lane, sequence := anyLane.Draw(t, "lane"), rapid.Uint64Range(1, math.MaxUint64).Draw(t, "sequence")
		id := wire.FreeID(lane, sequence)
		if l, s, ok := wire.ParseFreeID(id); !ok || l != lane || s != sequence {
			t.Fatalf("%s became %v, %d, %t", id, l, s, ok)
		}
		if err := wire.CheckID(id); err != nil {
			t.Fatalf("a free id is no id: %v", err)
		}
		if wire.CheckExplicitID(lane.Queue, id) == nil {
			t.Fatalf("%s may be given in %s", id, lane.Queue)
		}
	})
}

func TestCheckExplicitID(t *testing.T) {
	for _, id := range []string{"order-77", "mail", "mail-", "mail-7a", "mail-7-a", "mailing-7", "mail_urgent-7", "Mail-7", "mail=7", "7", "-7", "mail_high", "mail-1-7"} {
		if err := wire.CheckExplicitID("mail", id); err != nil {
			t.Error(err)
		}
	}
	for _, id := range []string{"mail-7", "mail-0", "mail-007", "mail-18446744073709551616", "mail_high-7", "mail_low-00"} {
		mustSay(t, wire.CheckExplicitID("mail", id), fmt.Sprintf("id %q: %s", id, wire.RuleExplicitID))
	}
	for _, id := range hostile {
		mustSay(t, wire.CheckExplicitID("mail", id), fmt.Sprintf("id %q: %s", cut(id), wire.RuleID))
	}
}

func TestCheckDerived(t *testing.T) {
	routes := []struct {
		route, queue string
		ok           bool
	}{
		{"orders", "mail", true},
		{"orders", "orders", true}, // orders-3-18422 is no <queue>-<digits>
		{"orders", "orders-x", true},
		{"orders", "orders-", true},
		{"orders", "orders-3-4", true},
		{"orders", "orders-3", false},
		{"orders-3", "orders-3-12", false},
	}
	for _, r := range routes {
		err := wire.CheckRouteIDs(r.route, r.queue)
		if (err == nil) != r.ok {
			t.Errorf("route %s, queue %s: %v", r.route, r.queue, err)
		}
		id := wire.KafkaOrigin{Topic: r.route, Partition: 3, Offset: 18422}.ID()
		if r.ok && wire.CheckExplicitID(r.queue, id) != nil {
			t.Errorf("%s is free in %s", id, r.queue)
		}
	}
	mustSay(t, wire.CheckRouteIDs("orders", "orders-3"), `route "orders": must not look like a free id of its queue, <queue>-<digits>`)
	if err := wire.CheckEntryIDs("nightly", "mail"); err != nil {
		t.Error(err)
	}
	mustSay(t, wire.CheckEntryIDs("mail", "mail"), `entry "mail": must not look like a free id of its queue, <queue>-<digits>`)
}

// TestDerivedIDsAreNeverFree: whatever a route or an entry passes its check
// with, none of its ids is a free one of its queue.
func TestDerivedIDsAreNeverFree(t *testing.T) {
	near := rapid.StringMatching(`a(-[0-9]{1,2}){0,2}`)
	rapid.Check(t, func(t *rapid.T) {
		name, queue := near.Draw(t, "name"), near.Draw(t, "queue")
		if wire.CheckRouteIDs(name, queue) == nil {
			o := anyKafkaOrigin.Draw(t, "origin")
			o.Route = name
			if _, _, free := wire.ParseFreeID(o.ID()); free && wire.CheckExplicitID(queue, o.ID()) != nil {
				t.Fatalf("route %s: %s is free in %s", name, o.ID(), queue)
			}
		}
		if wire.CheckEntryIDs(name, queue) == nil {
			id := wire.BeatOrigin{Entry: name, Nominal: anyTime.Draw(t, "nominal")}.ID()
			if wire.CheckExplicitID(queue, id) != nil {
				t.Fatalf("entry %s: %s is free in %s", name, id, queue)
			}
		}
	})
}

func FuzzParseFreeID(f *testing.F) {
	for _, id := range append([]string{"mail-7", "mail_high-7", "mail-007", "a-1-2", "mail-18446744073709551615"}, hostile...) {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		lane, sequence, ok := wire.ParseFreeID(id)
		if !ok {
			return
		}
		if again := wire.FreeID(lane, sequence); again != id {
			t.Errorf("%q is read as %v, %d, which is %q", id, lane, sequence, again)
		}
		if err := wire.CheckID(id); err != nil {
			t.Error(err)
		}
	})
}

// FuzzCheckExplicitID: no id that may be given in a queue is ever one that the
// queue gives by itself, in any lane.
func FuzzCheckExplicitID(f *testing.F) {
	for _, id := range append([]string{"mail-7", "mail-007", "mail_high-7", "mail_low-0", "mail-1-2", "order-77"}, hostile...) {
		f.Add("mail", id)
	}
	f.Fuzz(func(t *testing.T, queue, id string) {
		if wire.CheckQueue(queue) != nil || wire.CheckExplicitID(queue, id) != nil {
			return
		}
		if lane, _, ok := wire.ParseFreeID(id); ok && lane.Queue == queue {
			t.Errorf("%q may be given in %s", id, queue)
		}
		for _, suffix := range []string{"", "_high", "_low"} {
			digits, ok := strings.CutPrefix(id, queue+suffix+"-")
			if ok && digits != "" && strings.Trim(digits, "0123456789") == "" {
				t.Errorf("%q may be given in %s", id, queue)
			}
		}
	})
}
