package schedules

import (
	"strconv"
	"strings"
	"time"

	"pelton/engine/wire"
)

// CatchUp says which occurrences that were missed, those more than 30 s old, are
// sent all the same. The zero value is one. As text it is none, one, all,
// all(10) or all(10,1h).
type CatchUp struct {
	Policy CatchUpPolicy
	Max    int           // of all: how many, from 1 to 500; 0 is 100
	MaxAge time.Duration // of all: how old, from 1m to 168h; 0 is 24h
}

// CatchUpPolicy is what becomes of missed occurrences.
type CatchUpPolicy string

// The policies.
const (
	CatchUpNone CatchUpPolicy = "none" // all are skipped
	CatchUpOne  CatchUpPolicy = "one"  // the newest is sent, unless a newer one is on time
	CatchUpAll  CatchUpPolicy = "all"  // the oldest Max of those within MaxAge are sent, in order
)

// Bounds and defaults of all. What is decided about a time of standstill is
// decided in one step, so both are bounded.
const (
	defaultCatchUpMax = 100
	mostCatchUpMax    = 500
	defaultCatchUpAge = 24 * time.Hour
	leastCatchUpAge   = time.Minute
	mostCatchUpAge    = 7 * 24 * time.Hour
)

const ruleCatchUp = "must be none, one, all, or all(10,1h) with how many, from 1 to 500, and how old, from 1m to 168h"

// ParseCatchUp reads the text of a policy.
func ParseCatchUp(text string) (CatchUp, error) {
	bad := &wire.NameError{Field: "catch_up", Value: text, Rule: ruleCatchUp}
	inner, bounded := strings.CutPrefix(text, string(CatchUpAll)+"(")
	if !bounded {
		c := CatchUp{Policy: CatchUpPolicy(text)}
		if text == "" || c.check() != nil {
			return CatchUp{}, bad
		}
		return c, nil
	}
	inner, closed := strings.CutSuffix(inner, ")")
	most, age, aged := strings.Cut(inner, ",")
	c := CatchUp{Policy: CatchUpAll}
	var err error
	if c.Max, err = number(strings.TrimSpace(most)); err != nil || !closed || c.Max == 0 {
		return CatchUp{}, bad
	}
	if aged {
		if c.MaxAge, err = time.ParseDuration(strings.TrimSpace(age)); err != nil || c.MaxAge == 0 {
			return CatchUp{}, bad
		}
	}
	if c.check() != nil {
		return CatchUp{}, bad
	}
	return c, nil
}

// String is the policy's text; empty for the zero value.
func (c CatchUp) String() string {
	switch {
	case c.Policy != CatchUpAll || c.Max == 0 && c.MaxAge == 0:
		return string(c.Policy)
	case c.MaxAge == 0:
		return "all(" + strconv.Itoa(c.Max) + ")"
	}
	c = c.filled()
	return "all(" + strconv.Itoa(c.Max) + "," + shortDuration(c.MaxAge) + ")"
}

func (c CatchUp) check() error {
	ok := c.Max == 0 && c.MaxAge == 0
	switch c.Policy {
	case "":
	case CatchUpNone, CatchUpOne:
	case CatchUpAll:
		f := c.filled()
		ok = f.Max >= 1 && f.Max <= mostCatchUpMax && f.MaxAge >= leastCatchUpAge && f.MaxAge <= mostCatchUpAge
	default:
		ok = false
	}
	if !ok {
		return &wire.NameError{Field: "catch_up", Value: c.String(), Rule: ruleCatchUp}
	}
	return nil
}

// filled has the defaults in it.
func (c CatchUp) filled() CatchUp {
	if c.Policy == "" {
		c.Policy = CatchUpOne
	}
	if c.Policy == CatchUpAll && c.Max == 0 {
		c.Max = defaultCatchUpMax
	}
	if c.Policy == CatchUpAll && c.MaxAge == 0 {
		c.MaxAge = defaultCatchUpAge
	}
	return c
}

// shortDuration is a duration without the units that are zero: 1h, not 1h0m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
