package wire

import (
	"strconv"
	"strings"
)

// RuleExplicitID is the rule that keeps explicit ids apart from free ones.
const RuleExplicitID = "must not look like a free id of its queue, <queue>-<digits>"

// FreeID is the id of a task that was published without one: its lane and its
// sequence in the lane's stream. The PubAck of any client tells it.
func FreeID(l Lane, sequence uint64) string {
	var number [20]byte
	return l.String() + "-" + string(strconv.AppendUint(number[:0], sequence, 10))
}

// ParseFreeID reads an id made by [FreeID]. It reports false for any other,
// also for numbers that FreeID would not write (leading zeros, zero itself).
func ParseFreeID(id string) (l Lane, sequence uint64, ok bool) {
	cut := strings.LastIndexByte(id, '-')
	if cut < 0 {
		return Lane{}, 0, false
	}
	digits := id[cut+1:]
	sequence, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || digits[0] == '0' || digits[0] == '+' {
		return Lane{}, 0, false
	}
	l, err = ParseLane(id[:cut])
	return l, sequence, err == nil
}

// CheckExplicitID reports whether an id may be given to a task of a queue. It
// must not look like a free id of that queue, or two tasks could share it.
func CheckExplicitID(queue, id string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	cut := strings.LastIndexByte(id, '-')
	if cut < 0 || cut == len(id)-1 || !allBytes(id[cut+1:], digit) {
		return nil
	}
	if l, err := ParseLane(id[:cut]); err == nil && l.Queue == queue {
		return &NameError{"id", id, RuleExplicitID}
	}
	return nil
}

// CheckRouteIDs reports whether the ids that a route derives,
// `<route>-<partition>-<offset>`, stay apart from the free ids of its queue:
// route orders would meet those of queue orders-3.
func CheckRouteIDs(route, queue string) error {
	if partition, ok := strings.CutPrefix(queue, route+"-"); ok && partition != "" && allBytes(partition, digit) {
		return &NameError{"route", route, RuleExplicitID}
	}
	return nil
}

// CheckEntryIDs reports whether the ids that a beat entry derives,
// `<entry>-<nominal unix>`, stay apart from the free ids of its queue: they do
// unless both have one name.
func CheckEntryIDs(entry, queue string) error {
	if entry == queue {
		return &NameError{"entry", entry, RuleExplicitID}
	}
	return nil
}
