package config

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// parseDotenv reads a .env file as the tools that people have write it:
//
//	NAME=value            to the end of the line, or to a # after a space
//	export NAME='value'   as it is, over several lines if it must
//	NAME="value"          with \n \r \t \" \\ \$
//
// Outside single quotes $NAME and ${NAME} stand for variables that are known,
// given or written above, and ${NAME:-otherwise} for another text where they are
// not. The last of several lines with one name counts. What cannot be read is a
// warning, unless it is ours: a file may be for other programs, too.
func parseDotenv(file string, content []byte, known map[string]string) (variables []variable, warnings []string, err error) {
	if bytes.HasPrefix(content, []byte("\xff\xfe")) || bytes.HasPrefix(content, []byte("\xfe\xff")) {
		return nil, nil, &Error{Source: file, Rule: "must be UTF-8, this is UTF-16"}
	}
	text := strings.TrimPrefix(string(content), "\ufeff")
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
	r := dotenvReader{file: file, rest: text, line: 1, known: known, found: map[string]int{}}
	for r.rest != "" {
		if err := r.next(); err != nil {
			return nil, nil, err
		}
	}
	return r.variables, r.warnings, nil
}

type dotenvReader struct {
	file      string
	rest      string // what is not read yet
	line      int    // on which it begins
	known     map[string]string
	found     map[string]int // where a name stands in variables
	variables []variable
	warnings  []string
	expanded  int // bytes that variables were replaced by
}

func (r *dotenvReader) source() string { return r.file + ":" + strconv.Itoa(r.line) }

func (r *dotenvReader) warn(text string) { r.warnings = append(r.warnings, r.source()+": "+text) }

// next reads a line, or several where a quote goes on.
func (r *dotenvReader) next() error {
	line, rest, _ := strings.Cut(r.rest, "\n")
	trimmed := strings.TrimSpace(line)
	if trimmed == "" || trimmed[0] == '#' {
		r.skip(rest)
		return nil
	}
	name, value, found := strings.Cut(line, "=")
	name = nameIn(name)
	if !isName(name) || !found {
		return r.strange(trimmed, found, rest)
	}
	v := variable{name: name, source: r.source()}
	after := strings.TrimLeft(value, " \t\v\f")
	if after == "" || after[0] != '\'' && after[0] != '"' {
		v.text = r.expand(&v, unquoted(value), false)
		r.skip(rest)
		r.add(v)
		return nil
	}
	return r.quoted(v, r.rest[len(line)-len(after):])
}

// nameIn is what stands before the =, without what shells and YAML add.
func nameIn(s string) string {
	s = strings.TrimSpace(s)
	if rest, ok := strings.CutPrefix(s, "export"); ok && strings.TrimLeft(rest, " \t") != rest {
		s = strings.TrimSpace(rest)
	}
	return s
}

func isName(s string) bool {
	for i, c := range s {
		if c != '_' && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') && (i == 0 || c != '-' && c != '.') {
			return false
		}
	}
	return s != ""
}

// strange is a line that sets nothing. It is never repeated, for it may hold a
// secret.
func (r *dotenvReader) strange(line string, assigned bool, rest string) error {
	word := nameIn(line)
	if end := strings.IndexFunc(word, func(c rune) bool { return !isName("_" + string(c)) }); end >= 0 {
		word = word[:end]
	}
	if isOurs(word) && (assigned || word != nameIn(line)) {
		return &Error{Source: r.source(), Rule: word + " must be written " + word + "=value"}
	}
	if word != nameIn(line) { // NAME alone is a usual way to pass one on
		r.warn("must be NAME=value, the line is passed over")
	}
	r.skip(rest)
	return nil
}

// skip goes on behind the current line.
func (r *dotenvReader) skip(rest string) { r.rest, r.line = rest, r.line+1 }

// unquoted cuts a comment and the spaces around a value.
func unquoted(s string) string {
	for i := range len(s) {
		if s[i] == '#' && i > 0 && (s[i-1] == ' ' || s[i-1] == '\t') {
			return strings.TrimSpace(s[:i])
		}
	}
	return strings.TrimSpace(s)
}

// quoted reads a value from its first quote on.
func (r *dotenvReader) quoted(v variable, from string) error {
	quote, end := from[0], 1
	for end < len(from) && from[end] != quote {
		if quote == '"' && from[end] == '\\' && end+1 < len(from) {
			end++
		}
		end++
	}
	if end >= len(from) {
		return r.unclosed(v, quote)
	}
	inner := from[1:end]
	tail, rest, _ := strings.Cut(from[end+1:], "\n")
	if tail = strings.TrimSpace(tail); tail != "" && tail[0] != '#' {
		if strings.Contains(inner, "\n") && !isOurs(v.name) {
			return r.unclosed(v, quote) // what closes it is another line's
		}
		v.flaw = "must have nothing behind its closing quote"
	}
	if v.text = inner; quote == '"' {
		v.text = r.expand(&v, inner, true)
	}
	r.line += strings.Count(inner, "\n")
	r.skip(rest)
	r.add(v)
	return nil
}

// unclosed is a quote that takes the lines below with it. Where the name is
// another program's, these are read nevertheless.
func (r *dotenvReader) unclosed(v variable, quote byte) error {
	rule := fmt.Sprintf("%s has a quote %c that is never closed", v.name, quote)
	if isOurs(v.name) {
		return &Error{Source: v.source, Rule: rule}
	}
	r.warn(rule + ", the line is passed over")
	_, rest, _ := strings.Cut(r.rest, "\n")
	r.skip(rest)
	return nil
}

func (r *dotenvReader) add(v variable) {
	if v.flaw == "" && !utf8.ValidString(v.text) {
		v.flaw = "must be UTF-8"
	}
	if at, again := r.found[v.name]; again {
		r.variables[at] = variable{} // the last one counts
	}
	r.found[v.name] = len(r.variables)
	r.variables = append(r.variables, v)
}

// lookup is what a name stands for: what is given wins over the file, as it does
// for settings.
func (r *dotenvReader) lookup(name string) (string, bool) {
	if text, ok := r.known[name]; ok {
		return text, true
	}
	if at, ok := r.found[name]; ok {
		return r.variables[at].text, true
	}
	return "", false
}

// mostExpanded is how much variables in a file may grow to.
const mostExpanded = 1 << 20

// expand puts in what variables stand for and, within quotes, what escapes do.
func (r *dotenvReader) expand(v *variable, s string, quoted bool) string {
	var b strings.Builder
	for s != "" {
		next := strings.IndexAny(s, `\$`)
		if next < 0 || next == len(s)-1 {
			break
		}
		b.WriteString(s[:next])
		s = s[next:]
		if s[0] == '\\' {
			s = escape(&b, s, quoted)
			continue
		}
		s = r.variable(&b, v, s)
	}
	b.WriteString(s)
	return b.String()
}

// escape writes what a backslash and its letter stand for, and returns the rest.
func escape(b *strings.Builder, s string, quoted bool) string {
	const letters, meanings = `nrt"\$'`, "\n\r\t\"\\$'"
	switch at := strings.IndexByte(letters, s[1]); {
	case at >= 0 && (quoted || s[1] == '$'):
		b.WriteByte(meanings[at])
	default:
		b.WriteString(s[:2])
	}
	return s[2:]
}

// variable writes what the name after a $ stands for, and returns the rest. A $
// without a name is one.
func (r *dotenvReader) variable(b *strings.Builder, v *variable, s string) string {
	name, otherwise, hasOtherwise, rest := s[1:], "", false, ""
	if s[1] == '{' {
		inner, after, closed := strings.Cut(s[2:], "}")
		if !closed {
			v.flaw = "has a ${ that is never closed; single quotes keep a $"
			b.WriteString(s)
			return ""
		}
		name, otherwise, hasOtherwise = strings.Cut(inner, ":-")
		rest = after
		if !isName(name) {
			v.flaw = "must name a variable within ${ and }; single quotes keep a $"
			return rest
		}
	} else if name, rest = bareName(name); name == "" {
		b.WriteByte('$')
		return s[1:]
	}
	text, ok := r.lookup(name)
	if text == "" && hasOtherwise {
		text, ok = otherwise, true
	}
	if !ok {
		v.warning = "a variable in it is not set and stands for nothing; single quotes keep a $"
	}
	if r.expanded += len(text); r.expanded > mostExpanded {
		v.flaw = "must not grow over " + Bytes(mostExpanded).String() + " by the variables in it"
		return rest
	}
	b.WriteString(text)
	return rest
}

// bareName splits what is written without braces.
func bareName(s string) (name, rest string) {
	end := strings.IndexFunc(s, func(c rune) bool { return !isName("_"+string(c)) || c == '-' || c == '.' })
	if end < 0 {
		end = len(s)
	}
	if !isName(s[:end]) {
		return "", s
	}
	return s[:end], s[end:]
}
