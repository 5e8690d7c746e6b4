package wire

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// scanDepth is how many levels a scan can follow; deeper values are left to
// encoding/json.
const scanDepth = 64

// within reports whether a body is UTF-8 and one JSON value (RFC 8259) within the
// limits. It says no more than that: every task's body and result pass here, and
// encoding/json, which finds out why not, takes several times as long. More than
// scanDepth levels are never within.
func (l Limits) within(body []byte) bool {
	s := scanner{b: body, most: min(l.Depth, scanDepth)}
	for s.value() {
		if s.depth == 0 {
			s.space()
			return s.at == len(s.b) && s.keys <= l.Keys && utf8.Valid(body)
		}
	}
	return false
}

// scanner is where a scan has come to.
type scanner struct {
	b       []byte
	at      int
	most    int    // levels
	depth   int    // levels that are open
	objects uint64 // one bit for each, the lowest for the innermost: it is an object
	keys    int
}

// value reads one value that is no array and no object, or the beginning of
// those, with all that ends after it and the comma and key that lead to the next.
// It reports false where that is no JSON, or too deep.
func (s *scanner) value() bool {
	s.space()
	c := s.next()
	switch {
	case c == '"':
		return s.text() && s.after()
	case c == '{':
		return s.open(1, '}')
	case c == '[':
		return s.open(0, ']')
	case c == '-' || isDigit(c):
		return s.number(c) && s.after()
	case c == 't':
		return s.word("true") && s.after()
	case c == 'f':
		return s.word("false") && s.after()
	case c == 'n':
		return s.word("null") && s.after()
	}
	return false
}

// next is the next byte, 0 at the end: no JSON has it there.
func (s *scanner) next() byte {
	c := s.peek()
	s.at++
	return c
}

func (s *scanner) peek() byte {
	if s.at >= len(s.b) {
		return 0
	}
	return s.b[s.at]
}

func (s *scanner) space() {
	for c := s.peek(); c == ' ' || c == '\n' || c == '\t' || c == '\r'; c = s.peek() {
		s.at++
	}
}

// open begins an array or an object. An empty one ends at once.
func (s *scanner) open(object uint64, end byte) bool {
	if s.depth == s.most {
		return false
	}
	s.depth++
	s.objects = s.objects<<1 | object
	if s.space(); s.peek() == end {
		return s.after()
	}
	return object == 0 || s.key()
}

// after reads what may follow a value: ends, and what leads to the next value of
// what is open then.
func (s *scanner) after() bool {
	for s.depth > 0 {
		s.space()
		switch c, object := s.next(), s.objects&1 == 1; {
		case c == ',' && object:
			s.space()
			return s.key()
		case c == ',':
			return true
		case c == '}' && object, c == ']' && !object:
			s.depth--
			s.objects >>= 1
		default:
			return false
		}
	}
	return true
}

func (s *scanner) key() bool {
	s.keys++
	if s.next() != '"' || !s.text() {
		return false
	}
	s.space()
	return s.next() == ':'
}

// text reads a string whose quote is behind it.
func (s *scanner) text() bool {
	for {
		s.at += plain(s.b[min(s.at, len(s.b)):])
		switch c := s.next(); {
		case c == '"':
			return true
		case c == '\\':
			if !s.escape() {
				return false
			}
		case c < ' ':
			return false
		}
	}
}

// plain is how many bytes at the beginning of a text are surely neither a quote,
// nor a backslash, nor a control character. It looks at eight at a time.
func plain(b []byte) (n int) {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; len(b)-n >= 8; n += 8 {
		x := binary.LittleEndian.Uint64(b[n:])
		quote, back := x^ones*'"', x^ones*'\\'
		found := ((x-ones*' ')&^x | (quote-ones)&^quote | (back-ones)&^back) & tops
		if found != 0 {
			return n + bits.TrailingZeros64(found)/8
		}
	}
	return n
}

// escape reads what follows a backslash.
func (s *scanner) escape() bool {
	switch s.next() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	case 'u':
		for range 4 {
			if c := s.next(); !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
				return false
			}
		}
		return true
	}
	return false
}

// word reads one whose first letter is behind it.
func (s *scanner) word(whole string) bool {
	for i := 1; i < len(whole); i++ {
		if s.next() != whole[i] {
			return false
		}
	}
	return true
}

// number reads one whose first character is behind it.
func (s *scanner) number(first byte) bool {
	if first == '-' {
		first = s.next()
	}
	if !isDigit(first) {
		return false
	}
	if first != '0' {
		s.digits()
	}
	if s.peek() == '.' {
		s.at++
		if s.digits() == 0 {
			return false
		}
	}
	if s.peek()|0x20 != 'e' {
		return true
	}
	s.at++
	if c := s.peek(); c == '+' || c == '-' {
		s.at++
	}
	return s.digits() > 0
}

func (s *scanner) digits() (n int) {
	for ; isDigit(s.peek()); s.at++ {
		n++
	}
	return n
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
