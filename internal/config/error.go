package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrInvalid is what every [Error] is, for errors.Is.
var ErrInvalid = errors.New("invalid configuration")

// Error says which setting, from which place, breaks which rule.
type Error struct {
	Source string // PELTON_WORKER__GRACE, --grace
	Key    string // worker.grace; empty where the name stands for no key
	Value  string // as it may be shown; empty where the name alone is wrong
	Rule   string // must be …
}

// Error has the form `PELTON_WORKER__GRACE: worker.grace must be a duration
// such as 25s, got "soon"`.
func (e *Error) Error() string {
	s := e.Source + ": "
	if e.Key != "" {
		s += e.Key + " "
	}
	s += e.Rule
	switch {
	case e.Value == "":
		return s
	case strings.Trim(e.Value, plain) == "":
		return s + ", got " + e.Value
	}
	return s + ", got " + strconv.Quote(e.Value)
}

// plain is what needs no quotes.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-+.,:/_*@"

// Is makes every Error an [ErrInvalid].
func (e *Error) Is(target error) bool { return target == ErrInvalid }

// unknown is the error about a name that stands for no key.
func unknown(source, key string, known []string, spell func(key string) string) error {
	rule := "is unknown"
	if nearest, ok := Nearest(key, known); ok {
		rule += ", did you mean " + spell(nearest) + "?"
	}
	return &Error{Source: source, Key: key, Rule: rule}
}

// Nearest is the word that somebody may have meant who wrote another. It
// reports false where none is near.
func Nearest(word string, words []string) (string, bool) {
	best, least := "", 1+max(1, len(word)/4)
	for _, w := range words {
		if d := distance(strings.ToLower(word), strings.ToLower(w)); d < least {
			best, least = w, d
		}
	}
	return best, best != ""
}

// distance is how many letters must be added, removed, replaced or swapped with
// their neighbor to turn a into b.
func distance(a, b string) int {
	// Three rows of the table: the two before the current one.
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(above[j+1]+1, row[j]+1, above[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, above, row = above, row, before
	}
	return above[len(b)]
}

// excluded is the error about two places that say the same thing in two ways.
func excluded(source, other, key string) error {
	return &Error{Source: source, Key: key, Rule: fmt.Sprintf("must not stand beside %s", other)}
}
