package wire

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The headers of a task. All are optional and looked up in any case, because
// clients in other languages spell them as their libraries do.
const (
	HeaderID          = "Pelton-Id"           // identity where it is not the last subject token
	HeaderDelay       = "Pelton-Delay"        // not before this long after the broker took it: 5m
	HeaderETA         = "Pelton-Eta"          // not before this time: RFC 3339 with fraction
	HeaderExpires     = "Pelton-Expires"      // not after: either form
	HeaderAttempt     = "Pelton-Attempt"      // which attempt this is; the first run is 1
	HeaderMaxAttempts = "Pelton-Max-Attempts" // how many attempts there are, the first included
	HeaderBackoff     = "Pelton-Backoff"      // the wait between attempts: 1s..10m, 5s, or 1s,5s,1m
	HeaderTimeout     = "Pelton-Timeout"      // how long one attempt may run
	HeaderRun         = "Pelton-Run"          // how often the id was started on purpose
	HeaderGeneration  = "Pelton-Generation"   // how often the task was replaced while it waited for its time
	HeaderParent      = "Pelton-Parent"       // id of the task that published this one
	HeaderRoot        = "Pelton-Root"         // id of the first task of the line
	HeaderFlow        = "Pelton-Flow"         // workflow and step
	HeaderOrigin      = "Pelton-Origin"       // where the task came from, nearest first
	HeaderReplyTopic  = "Pelton-Reply-Topic"  // Kafka topic for the result
	HeaderReplyKey    = "Pelton-Reply-Key"    // Kafka key of the result
	HeaderContentType = "Content-Type"        // of the body; application/json unless given
	HeaderTraceParent = "traceparent"         // W3C trace context
	HeaderTraceState  = "tracestate"
	HeaderBaggage     = "baggage"
)

// The headers that dead letters carry besides the task's own.
const (
	HeaderErrorType = "Pelton-Error-Type"
	HeaderError     = "Pelton-Error"
	HeaderDiedAt    = "Pelton-Died-At" // RFC 3339 with fraction, UTC
)

// Bounds of what a message may ask for.
const (
	MaxDuration = 365 * 24 * time.Hour // delay, expiry, timeout, back-off
	MaxAttempts = maxCount
	MaxRun      = maxCount
	MaxReplaced = maxCount // generations of a task
	MaxWaits    = 32       // in a list of waits
)

// maxCount bounds every number that is counted up.
const maxCount = 1_000_000

// Bounds of the headers that a caller adds on his own; those of Pelton have
// bounds each, those of the broker are its affair.
const (
	MaxHeaders     = 32
	MaxHeaderBytes = 8 << 10
)

// MediaTypeJSON is the content type of a task that names none.
const MediaTypeJSON = "application/json"

// Header is the headers of a message. nats.Header and http.Header convert to
// it.
type Header map[string][]string

// Lookup is the first value under a name in any case. A name spelt exactly as
// asked wins over other spellings, among these the first in the order of bytes,
// so that every reader of a message finds the same.
func (h Header) Lookup(name string) (string, bool) {
	if values := h[name]; len(values) > 0 {
		return values[0], true
	}
	spelt, found := "", false
	for key, values := range h {
		if len(key) == len(name) && len(values) > 0 && strings.EqualFold(key, name) && (!found || key < spelt) {
			spelt, found = key, true
		}
	}
	if !found {
		return "", false
	}
	return h[spelt][0], true
}

// Value is Lookup without the second result: empty where there is none.
func (h Header) Value(name string) string {
	value, _ := h.Lookup(name)
	return value
}

// Set replaces every spelling of a name by this one.
func (h Header) Set(name, value string) {
	h.Delete(name)
	h[name] = []string{value}
}

// Delete removes every spelling of a name.
func (h Header) Delete(name string) {
	for key := range h {
		if len(key) == len(name) && strings.EqualFold(key, name) {
			delete(h, key)
		}
	}
}

// Own copies the headers without those that instruct the broker (Nats-…), as
// must be done wherever a message is copied across a trust boundary. The copy
// shares no memory with h and is never nil.
func (h Header) Own() Header {
	if len(h) == 0 {
		return Header{}
	}
	out := make(Header, len(h)+4)
	for key, values := range h {
		if !brokerHeader(key) {
			out[key] = append([]string(nil), values...)
		}
	}
	return out
}

// checkOwn checks the names of all headers but the broker's, and bounds those
// that are the caller's own.
func (h Header) checkOwn() error {
	count, size := 0, 0
	for key, values := range h {
		if brokerHeader(key) {
			continue
		}
		if err := CheckHeaderName(key); err != nil {
			return err
		}
		if len(key) >= 7 && strings.EqualFold(key[:7], "Pelton-") {
			continue
		}
		count++
		for _, value := range values {
			size += len(key) + len(value)
		}
	}
	if count > MaxHeaders || size > MaxHeaderBytes {
		return &NameError{
			"headers", fmt.Sprintf("%d of %d bytes", count, size),
			fmt.Sprintf("must be at most %d, of %d bytes together", MaxHeaders, MaxHeaderBytes),
		}
	}
	return nil
}

func brokerHeader(key string) bool {
	return len(key) >= 5 && strings.EqualFold(key[:5], "Nats-")
}

// Backoff bounds the wait before the next attempt: it doubles from Min, never
// beyond Max.
type Backoff struct {
	Min time.Duration
	Max time.Duration
}

// String is the form of the header, `1s..10m0s`.
func (b Backoff) String() string { return b.Min.String() + ".." + b.Max.String() }

// ParseBackoff reads `<min>..<max>`.
func ParseBackoff(s string) (Backoff, error) {
	low, high, ok := strings.Cut(s, "..")
	least, err := time.ParseDuration(low)
	most, err2 := time.ParseDuration(high)
	if !ok || err != nil || err2 != nil || least <= 0 || most < least || most > MaxDuration {
		return Backoff{}, badBackoff(s)
	}
	return Backoff{Min: least, Max: most}, nil
}

// Waits are the waits before the further attempts of a task, one after the
// other; the last one goes on. A single one is a fixed wait. It is the form of
// the header, `1s,5s,1m`, and holds only what [ParseWaits] has read.
type Waits string

// ParseWaits reads `<wait>[,<wait>…]`.
func ParseWaits(s string) (Waits, error) {
	if strings.Count(s, ",") >= MaxWaits {
		return "", badBackoff(s)
	}
	for part := range strings.SplitSeq(s, ",") {
		if d, err := time.ParseDuration(part); err != nil || d <= 0 || d > MaxDuration {
			return "", badBackoff(s)
		}
	}
	return Waits(s), nil
}

// FormatWaits is the form that [ParseWaits] reads.
func FormatWaits(waits ...time.Duration) string {
	parts := make([]string, len(waits))
	for i, d := range waits {
		parts[i] = d.String()
	}
	return strings.Join(parts, ",")
}

// All are the waits, in their order.
func (w Waits) All() []time.Duration {
	var all []time.Duration
	for part := range strings.SplitSeq(string(w), ",") {
		if d, err := time.ParseDuration(part); err == nil {
			all = append(all, d)
		}
	}
	return all
}

// After is the wait after a failed attempt, the first of which is 1.
func (w Waits) After(attempt int) time.Duration {
	rest := string(w)
	for ; attempt > 1; attempt-- {
		_, further, more := strings.Cut(rest, ",")
		if !more {
			break
		}
		rest = further
	}
	first, _, _ := strings.Cut(rest, ",")
	d, err := time.ParseDuration(first)
	if err != nil {
		return 0
	}
	return d
}

// ParseRetry reads either form of the header: bounds of a back-off, or waits.
func ParseRetry(s string) (Backoff, Waits, error) {
	if strings.Contains(s, "..") {
		b, err := ParseBackoff(s)
		return b, "", err
	}
	w, err := ParseWaits(s)
	return Backoff{}, w, err
}

func badBackoff(s string) error {
	return &NameError{
		HeaderBackoff, s,
		fmt.Sprintf("must be <min>..<max>, as 1s..10m, or at most %d waits, as 5s or 1s,5s,1m, each above 0 and at most a year", MaxWaits),
	}
}

// Meta is what the headers of a task say. Zero values mean that a header is
// absent; Attempt and Run are then 1.
type Meta struct {
	ID          string
	ETA         time.Time
	Expires     time.Time
	Attempt     int
	MaxAttempts int
	Backoff     Backoff // this, or Waits, or neither
	Waits       Waits
	Timeout     time.Duration
	Run         int
	Generation  int
	Parent      string
	Root        string
	Flow        string
	Origin      string
	ReplyTopic  string
	ReplyKey    string
	ContentType string
	Trace       Trace
}

// Trace is the W3C trace context of a message, carried and never interpreted.
type Trace struct {
	Parent  string
	State   string
	Baggage string
}

// ParseMeta reads the headers of a task. Delays count from published, the time
// at which the broker took the message. The error is a [*NameError] that names
// the header.
func ParseMeta(h Header, published time.Time) (Meta, error) {
	m := Meta{Attempt: 1, Run: 1}
	if len(h) == 0 {
		return m, nil
	}
	p := metaParser{h: h, err: h.checkOwn()}
	m.ID = p.checked(HeaderID, CheckID)
	m.Attempt = p.count(HeaderAttempt, 1)
	m.MaxAttempts = p.count(HeaderMaxAttempts, 0)
	m.Run = p.count(HeaderRun, 1)
	m.Generation = p.count(HeaderGeneration, 0)
	m.Timeout = p.duration(HeaderTimeout)
	m.Backoff, m.Waits = p.backoff()
	m.ETA = p.eta(published)
	m.Expires = p.instant(HeaderExpires, published)
	m.Parent = p.checked(HeaderParent, CheckID)
	m.Root = p.checked(HeaderRoot, CheckID)
	m.Flow = p.text(HeaderFlow)
	m.Origin = p.checked(HeaderOrigin, CheckOrigins)
	m.ReplyTopic = p.checked(HeaderReplyTopic, checkTopic)
	m.ReplyKey = p.text(HeaderReplyKey)
	m.ContentType = p.text(HeaderContentType)
	m.Trace = Trace{p.text(HeaderTraceParent), p.text(HeaderTraceState), p.text(HeaderBaggage)}
	return m, p.err
}

// JSON reports whether the body is meant to be JSON.
func (m Meta) JSON() bool {
	media, _, _ := strings.Cut(m.ContentType, ";")
	media = strings.TrimSpace(media)
	return media == "" || strings.EqualFold(media, MediaTypeJSON)
}

// FormatTime is how times stand in headers: RFC 3339 with nanoseconds, UTC.
func FormatTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// ParseDuration reads a duration of a header or a flag: Go's form, from 0 to a
// year. Field names it in the error.
func ParseDuration(field, s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > MaxDuration {
		return 0, &NameError{field, s, "must be a duration as 1m30s, from 0 to a year (8760h)"}
	}
	return d, nil
}

// ParseTime reads a time of a header or a flag: RFC 3339 with its zone, however
// long ago, and at most a year after from. Field names it in the error.
func ParseTime(field, s string, from time.Time) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	rule := "must be a time as 2026-11-22T22:29:10.5Z, at most a year ahead"
	switch {
	case err == nil && t.Sub(from) <= MaxDuration:
		return t, nil
	case err == nil:
		rule = "must lie at most a year (8760h) ahead"
	case timeWithoutZone(s):
		rule = "must name its zone, as 2026-11-22T22:29:10Z or 2026-11-22T23:29:10+01:00"
	}
	return time.Time{}, &NameError{field, s, rule}
}

func looksLikeTime(s string) bool {
	_, err := time.Parse(time.RFC3339Nano, s)
	return err == nil
}

func timeWithoutZone(s string) bool {
	_, err := time.Parse("2006-01-02T15:04:05", s) // reads fractions too
	return err == nil
}

// ParseInstant reads a time, or a duration counted from a time. Field names it
// in the error.
func ParseInstant(field, s string, from time.Time) (time.Time, error) {
	t, err := ParseTime(field, s, from)
	if err == nil || timeWithoutZone(s) || looksLikeTime(s) {
		return t, err
	}
	d, err := ParseDuration(field, s)
	if err != nil {
		return time.Time{}, &NameError{field, s, "must be a time as 2026-11-22T22:29:10.5Z or a duration as 5m, at most a year ahead"}
	}
	return from.Add(d), nil
}

// metaParser keeps the first error, so that ParseMeta reads as a list.
type metaParser struct {
	h   Header
	err error
}

func (p *metaParser) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

func (p *metaParser) text(name string) string {
	value := p.h.Value(name)
	if len(value) > 4096 {
		p.fail(&NameError{name, value, "must be at most 4096 bytes"})
	}
	return value
}

func (p *metaParser) checked(name string, check func(string) error) string {
	value, ok := p.h.Lookup(name)
	if !ok {
		return ""
	}
	if err := check(value); err != nil {
		p.fail(fmt.Errorf("%s: %w", name, err))
	}
	return value
}

func (p *metaParser) count(name string, otherwise int) int {
	value, ok := p.h.Lookup(name)
	if !ok {
		return otherwise
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > maxCount {
		p.fail(&NameError{name, value, fmt.Sprintf("must be a whole number from 1 to %d", maxCount)})
	}
	return n
}

func (p *metaParser) duration(name string) time.Duration {
	value, ok := p.h.Lookup(name)
	if !ok {
		return 0
	}
	d, err := ParseDuration(name, value)
	if err != nil {
		p.fail(err)
	}
	return d
}

func (p *metaParser) instant(name string, from time.Time) time.Time {
	value, ok := p.h.Lookup(name)
	if !ok {
		return time.Time{}
	}
	t, err := ParseInstant(name, value, from)
	if err != nil {
		p.fail(err)
	}
	return t
}

func (p *metaParser) eta(published time.Time) time.Time {
	if delay, ok := p.h.Lookup(HeaderDelay); ok {
		d, err := ParseDuration(HeaderDelay, delay)
		if err != nil {
			p.fail(err)
		}
		if _, both := p.h.Lookup(HeaderETA); both {
			p.fail(&NameError{HeaderDelay, delay, "must not stand beside " + HeaderETA})
		}
		return published.Add(d)
	}
	value, ok := p.h.Lookup(HeaderETA)
	if !ok {
		return time.Time{}
	}
	t, err := ParseTime(HeaderETA, value, published)
	if err != nil {
		p.fail(err)
	}
	return t
}

func (p *metaParser) backoff() (Backoff, Waits) {
	value, ok := p.h.Lookup(HeaderBackoff)
	if !ok {
		return Backoff{}, ""
	}
	b, w, err := ParseRetry(value)
	if err != nil {
		p.fail(err)
	}
	return b, w
}

func checkTopic(topic string) error {
	if !topicName(topic) || topic == "." || topic == ".." {
		return &NameError{"topic", topic, "must match [A-Za-z0-9._-]{1,249}"}
	}
	return nil
}
