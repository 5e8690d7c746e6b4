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
	return l.String() + "-" + strconv.FormatUint(sequence, 10)
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
	return checkNotFree(queue, id, "id", id)
}

// CheckDerivedIDs reports whether the ids `<prefix>-<digits>` that a route or a
// beat entry of that name would derive stay apart from the free ids of its
// queue. Field names what the name belongs to, "route" or "entry".
func CheckDerivedIDs(field, name, queue string) error {
	return checkNotFree(queue, name+"-1", field, name)
}

func checkNotFree(queue, id, field, value string) error {
	cut := strings.LastIndexByte(id, '-')
	if cut < 0 || cut == len(id)-1 || !allBytes(id[cut+1:], digit) {
		return nil
	}
	if l, err := ParseLane(id[:cut]); err != nil || l.Queue != queue {
		return nil
	}
	return &NameError{field, value, RuleExplicitID}
}
