package config

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"pelton/internal/secret"
)

// JSON is a value of any kind, as JSON.
type JSON string

// Bytes is a size in bytes; -1 is no limit.
type Bytes int64

// String is the size in the largest unit that keeps it whole: 4GiB.
func (b Bytes) String() string {
	for _, u := range units {
		if u.factor >= 1<<10 && u.binary && b > 0 && int64(b)%u.factor == 0 {
			return strconv.FormatInt(int64(b)/u.factor, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// units are the largest first among those of a kind.
var units = []struct {
	name   string
	factor int64
	binary bool
}{
	{"TiB", 1 << 40, true},
	{"GiB", 1 << 30, true},
	{"MiB", 1 << 20, true},
	{"KiB", 1 << 10, true},
	{"TB", 1e12, false},
	{"GB", 1e9, false},
	{"MB", 1e6, false},
	{"KB", 1e3, false},
	{"B", 1, false},
}

// ParseBytes reads a whole number, with a unit or without: 4GiB, 500MB, 1000.
func ParseBytes(s string) (Bytes, error) {
	number, factor := strings.TrimSpace(s), int64(1)
	for _, u := range units {
		if rest, ok := cutSuffixFold(number, u.name); ok {
			number, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n > math.MaxInt64/factor || n < math.MinInt64/factor {
		return 0, fmt.Errorf("size: %q: %s", s, ruleBytes)
	}
	return Bytes(n * factor), nil
}

func cutSuffixFold(s, suffix string) (string, bool) {
	if len(s) < len(suffix) || !strings.EqualFold(s[len(s)-len(suffix):], suffix) {
		return s, false
	}
	return s[:len(s)-len(suffix)], true
}

// The rules of the types, as errors print them.
const (
	ruleBytes    = "must be a size such as 500MB, 4GiB or 1000"
	ruleDuration = "must be a duration such as 500ms, 25s or 1h30m"
	ruleInt      = "must be a whole number"
	ruleBool     = "must be true or false"
	ruleJSON     = `must be JSON, such as {"message":"hi"}`
	rulePairs    = "must be names with their values, such as engine:debug,kafka:warn"
	ruleSlots    = "must be queues with their slots, such as default:8,mail:2"
)

// parse reads a text as a value of a key's type. It returns the rule that the
// text breaks, or "".
func parse(typ reflect.Type, text string) (value any, rule string) {
	var err error
	switch typ {
	case reflect.TypeFor[string](), reflect.TypeFor[secret.Text]():
		// A secret stays a text until the settings are made: koanf copies what it
		// holds, and of a secret it would copy nothing.
		return text, ""
	case reflect.TypeFor[[]string]():
		return splitList(text), ""
	case reflect.TypeFor[bool]():
		value, err = strconv.ParseBool(text)
		rule = ruleBool
	case reflect.TypeFor[int]():
		value, err = strconv.Atoi(text)
		rule = ruleInt
	case reflect.TypeFor[int64]():
		value, err = strconv.ParseInt(text, 10, 64)
		rule = ruleInt
	case reflect.TypeFor[time.Duration]():
		value, err = time.ParseDuration(text)
		rule = ruleDuration
	case reflect.TypeFor[Bytes]():
		value, err = ParseBytes(text)
		rule = ruleBytes
	case reflect.TypeFor[JSON]():
		value, rule = JSON(text), ruleJSON
		if !json.Valid([]byte(text)) {
			return nil, rule
		}
	case reflect.TypeFor[map[string]string]():
		value, err = ParsePairs(text)
		rule = rulePairs
	case reflect.TypeFor[map[string]int]():
		value, err = ParseSlots(text)
		rule = ruleSlots
	default:
		panic(fmt.Sprintf("no way to read a %s", typ))
	}
	if err != nil {
		return nil, rule
	}
	return value, ""
}

// splitList reads a list separated by commas. Empty elements are left out.
func splitList(s string) []string {
	var out []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// ParseSlots reads queues with their slots, default:8,mail. Without a number it
// is 0.
func ParseSlots(s string) (map[string]int, error) {
	out := map[string]int{}
	for _, part := range splitList(s) {
		name, number, found := strings.Cut(part, ":")
		n, err := strconv.Atoi(number)
		if _, twice := out[name]; found && err != nil || twice {
			return nil, fmt.Errorf("queues: %q: %s, each once", s, ruleSlots)
		}
		out[name] = n
	}
	return out, nil
}

// ParsePairs reads names with their values, kafka:warn,nats:error.
func ParsePairs(s string) (map[string]string, error) {
	out := map[string]string{}
	for _, part := range splitList(s) {
		name, value, found := strings.Cut(part, ":")
		if _, twice := out[name]; !found || name == "" || value == "" || twice {
			return nil, fmt.Errorf("pairs: %q: %s, each once", s, rulePairs)
		}
		out[name] = value
	}
	return out, nil
}
