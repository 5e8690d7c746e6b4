package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// Limits bounds what a decoder accepts from strangers.
type Limits struct {
	Bytes int // size of a body
	Depth int // nesting of arrays and objects
	Keys  int // keys of all objects together
}

// DefaultLimits are the limits of a task's body and of a result.
var DefaultLimits = Limits{Bytes: 512 << 10, Depth: 32, Keys: 10_000}

// BodyError says which limit a body breaks, or that it is not JSON.
type BodyError struct {
	Rule string // "must be …"
	Have string // what it is instead
}

// Error has the form `body: 600000 bytes, must be at most 524288 bytes`.
func (e *BodyError) Error() string { return "body: " + e.Have + ", " + e.Rule }

// CheckSize reports whether a body is within the size limit.
func (l Limits) CheckSize(body []byte) error {
	if len(body) > l.Bytes {
		return &BodyError{fmt.Sprintf("must be at most %d bytes", l.Bytes), fmt.Sprintf("%d bytes", len(body))}
	}
	return nil
}

// CheckJSON reports whether a body is one JSON value within the limits: UTF-8,
// no trailing data, neither too deep nor with too many keys. It looks at each
// byte a fixed number of times and never recurses.
func (l Limits) CheckJSON(body []byte) error {
	if err := l.CheckSize(body); err != nil {
		return err
	}
	if l.within(body) {
		return nil
	}
	return l.explain(body)
}

// explain finds out what is wrong with a body, if anything is.
func (l Limits) explain(body []byte) error {
	if len(body) == 0 {
		return &BodyError{"must be JSON", "empty"}
	}
	depth, deepest, keys := measure(body)
	switch {
	case deepest > l.Depth:
		return &BodyError{fmt.Sprintf("must be at most %d levels deep", l.Depth), fmt.Sprintf("%d levels deep", deepest)}
	case keys > l.Keys:
		return &BodyError{fmt.Sprintf("must have at most %d keys", l.Keys), fmt.Sprintf("%d keys", keys)}
	case !utf8.Valid(body):
		return &BodyError{"must be JSON", "not UTF-8"}
	case depth != 0 || !json.Valid(body):
		return &BodyError{"must be JSON", "not JSON"}
	}
	return nil
}

// plainString is where a string without escapes ends, -1 for any other. Most are
// plain, and this looks at many bytes at once.
func plainString(rest []byte) int {
	end := bytes.IndexByte(rest, '"')
	if end >= 0 && bytes.IndexByte(rest[:end], '\\') >= 0 {
		return -1
	}
	return end
}

// measure counts brackets and colons outside of strings. On what is not JSON
// its answer means nothing, but it ends.
func measure(body []byte) (depth, deepest, keys int) {
	inString := false
	for i := 0; i < len(body); i++ {
		c := body[i]
		if inString {
			switch c {
			case '\\':
				i++
			case '"':
				inString = false
			}
			continue
		}
		switch c {
		case '"':
			if end := plainString(body[i+1:]); end >= 0 {
				i += end + 1
				continue
			}
			inString = true
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		case ':':
			keys++
		}
	}
	return depth, deepest, keys
}
