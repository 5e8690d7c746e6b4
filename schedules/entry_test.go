package schedules_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pelton/engine/wire"
	"pelton/schedules"
)

// TestParseEntryRefuses is what is wrong in an entry, and what is said of it.
func TestParseEntryRefuses(t *testing.T) {
	t.Parallel()
	const never = "must be due at all: there is no such day"
	tests := map[string]string{
		// When.
		`{"task":"a"}`: `every, cron, at: one of them must be given`,
		`{"task":"a","every":"1s","cron":"@daily"}`:                                                   `every, cron, at: only one of them may be given`,
		`{"task":"a","every":"1s","at":"2030-01-01T00:00:00Z"}`:                                       `every, cron, at: only one of them may be given`,
		`{"task":"a","every":"0s"}`:                                                                   `every "0s": must be whole seconds, from 1s to a year (8760h)`,
		`{"task":"a","every":"-5s"}`:                                                                  `every "-5s": must be whole seconds, from 1s to a year (8760h)`,
		`{"task":"a","every":"100ms"}`:                                                                `every "100ms": must be whole seconds, from 1s to a year (8760h)`,
		`{"task":"a","every":"1500ms"}`:                                                               `every "1.5s": must be whole seconds, from 1s to a year (8760h)`,
		`{"task":"a","every":"8761h"}`:                                                                `every "8761h0m0s": must be whole seconds, from 1s to a year (8760h)`,
		`{"task":"a","every":"often"}`:                                                                `every "often": must be whole seconds, from 1s to a year (8760h)`,
		`{"task":"a","every":10}`:                                                                     `every: must be a text`,
		`{"task":"a","every":null}`:                                                                   `every: must be a text`,
		`{"task":"a","every":""}`:                                                                     `every: must not be empty`,
		`{"task":"a","at":"2030-01-01"}`:                                                              `at "2030-01-01": must be a time with its zone, as 2026-11-22T22:29:10Z or 2026-11-22T23:29:10+01:00`,
		`{"task":"a","at":"2030-01-01T00:00:00"}`:                                                     `at "2030-01-01T00:00:00": must be a time with its zone, as 2026-11-22T22:29:10Z or 2026-11-22T23:29:10+01:00`,
		`{"task":"a","at":"2030-01-01T00:00:00.5Z"}`:                                                  `at "2030-01-01T00:00:00.5Z": must be whole seconds in the years 1970 to 9999`,
		`{"task":"a","at":"1969-12-31T23:59:59Z"}`:                                                    `at "1969-12-31T23:59:59Z": must be whole seconds in the years 1970 to 9999`,
		`{"task":"a","at":"0001-01-01T00:00:00Z"}`:                                                    `at "0001-01-01T00:00:00Z": must be a time with its zone, as 2026-11-22T22:29:10Z or 2026-11-22T23:29:10+01:00`,
		`{"task":"a","at":"2030-01-01T00:00:00Z","zone":"UTC"}`:                                       `zone "UTC": must be left out without cron: an interval and a time do not depend on it`,
		`{"task":"a","every":"1s","zone":"Europe/Berlin"}`:                                            `zone "Europe/Berlin": must be left out without cron: an interval and a time do not depend on it`,
		`{"task":"a","at":"2030-01-01T00:00:00Z","start":"2030-01-01T00:00:00Z"}`:                     `start "2030-01-01T00:00:00Z": must be left out with at`,
		`{"task":"a","at":"2030-01-01T00:00:00Z","end":"2030-01-01T00:00:00Z"}`:                       `end "2030-01-01T00:00:00Z": must be left out with at`,
		`{"task":"a","every":"1s","start":"2030-01-01T00:00:00Z","end":"2029-12-31T23:59:59Z"}`:       `end "2029-12-31T23:59:59Z": must not be before start, 2030-01-01T00:00:00Z`,
		`{"task":"a","every":"1s","start":"soon"}`:                                                    `start "soon": must be a time with its zone, as 2026-11-22T22:29:10Z or 2026-11-22T23:29:10+01:00`,
		`{"task":"a","cron":"0 0 1 1 *","start":"2030-01-02T00:00:00Z","end":"2030-12-31T00:00:00Z"}`: `cron "0 0 1 1 *": must be due between start and end`,

		// Cron.
		`{"task":"a","cron":"* * * * * * *"}`:                             `cron "* * * * * * *": must have 5 fields, or 6 with the second first, got 7`,
		`{"task":"a","cron":"* * * *"}`:                                   `cron "* * * *": must have 5 fields, or 6 with the second first, got 4`,
		`{"task":"a","cron":" "}`:                                         `cron " ": must have 5 fields, or 6 with the second first, got none`,
		`{"task":"a","cron":"61 * * * *"}`:                                `cron "61 * * * *": minute must be from 0 to 59, got "61"`,
		`{"task":"a","cron":"60 * * * * *"}`:                              `cron "60 * * * * *": second must be from 0 to 59, got "60"`,
		`{"task":"a","cron":"0 24 * * *"}`:                                `cron "0 24 * * *": hour must be from 0 to 23, got "24"`,
		`{"task":"a","cron":"0 0 0 * *"}`:                                 `cron "0 0 0 * *": day of month must be from 1 to 31, got "0"`,
		`{"task":"a","cron":"0 0 32 * *"}`:                                `cron "0 0 32 * *": day of month must be from 1 to 31, got "32"`,
		`{"task":"a","cron":"0 0 * 13 *"}`:                                `cron "0 0 * 13 *": month must be from 1 to 12 or a name as FEB, got "13"`,
		`{"task":"a","cron":"0 0 * foo *"}`:                               `cron "0 0 * foo *": month must be from 1 to 12 or a name as FEB, got "foo"`,
		`{"task":"a","cron":"0 0 * anf *"}`:                               `cron "0 0 * anf *": month must be from 1 to 12 or a name as FEB, got "anf"`,
		`{"task":"a","cron":"0 0 * * 8"}`:                                 `cron "0 0 * * 8": day of week must be from 0 to 7 or a name as MON, got "8"`,
		`{"task":"a","cron":"0 0 L * *"}`:                                 `cron "0 0 L * *": day of month must be from 1 to 31, got "L"`,
		`{"task":"a","cron":"0 0 * * 1#2"}`:                               `cron "0 0 * * 1#2": day of week must be from 0 to 7 or a name as MON, got "1#2"`,
		`{"task":"a","cron":"0 22-2 * * *"}`:                              `cron "0 22-2 * * *": hour must have ranges that end after they begin, got "22-2"`,
		`{"task":"a","cron":"*/0 * * * *"}`:                               `cron "*/0 * * * *": minute must have a step from 1 to 59, got "*/0"`,
		`{"task":"a","cron":"*/60 * * * *"}`:                              `cron "*/60 * * * *": minute must have a step from 1 to 59, got "*/60"`,
		`{"task":"a","cron":"1/2/3 * * * *"}`:                             `cron "1/2/3 * * * *": minute must have a step from 1 to 59, got "1/2/3"`,
		`{"task":"a","cron":"1-2-3 * * * *"}`:                             `cron "1-2-3 * * * *": minute must be from 0 to 59, got "2-3"`,
		`{"task":"a","cron":"1,,2 * * * *"}`:                              `cron "1,,2 * * * *": minute must be from 0 to 59, got ""`,
		`{"task":"a","cron":"-1 * * * *"}`:                                `cron "-1 * * * *": minute must be from 0 to 59, got ""`,
		`{"task":"a","cron":"+1 * * * *"}`:                                `cron "+1 * * * *": minute must be from 0 to 59, got "+1"`,
		`{"task":"a","cron":"? * * * *"}`:                                 `cron "? * * * *": minute must be from 0 to 59, got "?"`,
		`{"task":"a","cron":"** * * * *"}`:                                `cron "** * * * *": minute must be from 0 to 59, got "**"`,
		`{"task":"a","cron":"99999999999999999999999 * * * *"}`:           `cron "99999999999999999999999 * * * *": minute must be from 0 to 59, got "99999999999999999999…"`,
		`{"task":"a","cron":"@fortnightly"}`:                              `cron "@fortnightly": must be @yearly, @monthly, @weekly, @daily or @hourly where it begins with @`,
		`{"task":"a","cron":"@daily 5"}`:                                  `cron "@daily 5": must be @yearly, @monthly, @weekly, @daily or @hourly where it begins with @`,
		`{"task":"a","cron":"@every 5s"}`:                                 `cron "@every 5s": must not be @every; every is a setting of its own`,
		`{"task":"a","cron":"CRON_TZ=Europe/Berlin 0 0 * * *"}`:           `cron "CRON_TZ=Europe/Berlin 0 0 * * *": must not name a zone; zone does`,
		`{"task":"a","cron":"０ 0 * * *"}`:                                 `cron "０ 0 * * *": must be plain text`,
		`{"task":"a","cron":"0 0 31 2 *"}`:                                `cron "0 0 31 2 *": ` + never,
		`{"task":"a","cron":"0 0 31 feb,apr,jun ?"}`:                      `cron "0 0 31 feb,apr,jun ?": ` + never,
		`{"task":"a","cron":"0 */4 30 2 *","zone":"Australia/Lord_Howe"}`: `cron "0 */4 30 2 *": ` + never,
		`{"task":"a","cron":"@daily","zone":"Europe/Berlin2"}`:            `zone "Europe/Berlin2": must be a zone of the IANA database, as Europe/Berlin`,
		`{"task":"a","cron":"@daily","zone":"europe/berlin"}`:             `zone "europe/berlin": must be a zone of the IANA database, as Europe/Berlin; did you mean Europe/Berlin?`,
		`{"task":"a","cron":"@daily","zone":"Local"}`:                     `zone "Local": must be a zone of the IANA database, as Europe/Berlin`,
		`{"task":"a","cron":"@daily","zone":"../../etc/passwd"}`:          `zone "../../etc/passwd": must be a zone of the IANA database, as Europe/Berlin`,
		`{"task":"a","cron":"@daily","zone":"Europe/"}`:                   `zone "Europe/": must be a zone of the IANA database, as Europe/Berlin`,

		// Policies.
		`{"task":"a","every":"1s","jitter":"-1s"}`:         `jitter "-1s": must be a duration as 30s, from 0 to 24h`,
		`{"task":"a","every":"1s","jitter":"25h"}`:         `jitter "25h0m0s": must be a duration as 30s, from 0 to 24h`,
		`{"task":"a","every":"1s","expires":"9000h"}`:      `expires "9000h0m0s": must be a duration as 10m, from 0 to a year (8760h)`,
		`{"task":"a","every":"1s","catch_up":"some"}`:      `catch_up "some": must be none, one, all, or all(10,1h) with how many, from 1 to 500, and how old, from 1m to 168h`,
		`{"task":"a","every":"1s","catch_up":"all(0)"}`:    `catch_up "all(0)": must be none, one, all, or all(10,1h) with how many, from 1 to 500, and how old, from 1m to 168h`,
		`{"task":"a","every":"1s","catch_up":"all(1,1s)"}`: `catch_up "all(1,1s)": must be none, one, all, or all(10,1h) with how many, from 1 to 500, and how old, from 1m to 168h`,
		`{"task":"a","every":"1s","catch_up":{"all":{}}}`:  `catch_up: must be a text`,
		`{"task":"a","every":"1s","overlap":"wait"}`:       `overlap "wait": must be skip, queue or replace`,
		`{"task":"a","every":"1s","paused":"yes"}`:         `paused: must be true or false`,

		// Where to and what.
		`{"every":"1s"}`:                                            `task: must be given`,
		`{"every":"1s","task":"a.b"}`:                               `task "a.b": must match [A-Za-z0-9][A-Za-z0-9_-]{0,63}`,
		`{"every":"1s","task":"pelton-dead"}`:                       `task "pelton-dead": must not begin with pelton-`,
		`{"every":"1s","task":"a","queue":"Mail"}`:                  `queue "Mail": must match [a-z0-9][a-z0-9-]{0,63}`,
		`{"every":"1s","task":"a","queue":"mail_high"}`:             `queue "mail_high": must match [a-z0-9][a-z0-9-]{0,63}`,
		`{"every":"1s","task":"a","queue":"nightly"}`:               `queue "nightly": must not be the entry's own name: its ids would look like the queue's own, <queue>-<digits>`,
		`{"every":"1s","task":"a","headers":[]}`:                    `headers: must be an object of texts`,
		`{"every":"1s","task":"a","headers":{"X":1}}`:               `headers: must be an object of texts`,
		`{"every":"1s","task":"a","headers":{"X Y":"1"}}`:           `headers "X Y": must have names that match ^[A-Za-z0-9-]{1,128}$`,
		`{"every":"1s","task":"a","headers":{"pelton-eta":"1"}}`:    `headers "pelton-eta": must not have names that begin with Pelton- or Nats-`,
		`{"every":"1s","task":"a","headers":{"Nats-Rollup":"all"}}`: `headers "Nats-Rollup": must not have names that begin with Pelton- or Nats-`,
		`{"every":"1s","task":"a","headers":{"X":"1\n2"}}`:          `headers: X: must be one line`,

		// No entry at all.
		``:                                    `empty, must be JSON`,
		`nonsense`:                            `not JSON at byte 2, must be JSON`,
		`{"every":"1s","task":"a","body":hi}`: `not JSON at byte 33, must be JSON`,
		`{"every":"1s","task":"a"} {}`:        `not JSON at byte 27, must be JSON`,
		`[]`:                                  `must be a JSON object`,
		`"every"`:                             `must be a JSON object`,
		`null`:                                `must be a JSON object`,
		`{"evry":"1s","task":"a"}`:            `field "evry": must be one of every, cron, at, zone, start, end, jitter, catch_up, overlap, paused, task, queue, body, headers, expires`,
		`{"Every":"1s","task":"a"}`:           `field "Every": must be one of every, cron, at, zone, start, end, jitter, catch_up, overlap, paused, task, queue, body, headers, expires`,
		`{"every":"1s","every":"2s"}`:         `field "every": must stand there once`,
		"{\"task\":\"\xff\"}":                 `not UTF-8, must be JSON`,
		`{"body":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}`: `51 levels deep, must be at most 33 levels deep`,
		`{"body":"` + strings.Repeat("a", 16<<10) + `"}`:                     `16395 bytes, must be at most 16384 bytes`,
	}
	for data, want := range tests {
		e, err := schedules.ParseEntry("nightly", []byte(data))
		if want = "entry nightly: " + want; err == nil || err.Error() != want {
			t.Errorf("%s:\n%v, want\n%s", data[:min(len(data), 200)], err, want)
		}
		if e.Name != "nightly" {
			t.Errorf("%s: name %q", data[:min(len(data), 200)], e.Name)
		}
	}
	for _, name := range []string{"", "Nightly", "a.b", "-a", "a b", "*", strings.Repeat("a", 65)} {
		_, err := schedules.ParseEntry(name, []byte(`{"every":"1s","task":"a"}`))
		if want := fmt.Sprintf("entry %q: %s", name, wire.RuleRoute); err == nil || err.Error() != want || !errors.Is(err, wire.ErrInvalidName) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestValidateRefuses is what only Go can put into an entry.
func TestValidateRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]schedules.Entry{
		`entry a: every "-1s": must be whole seconds, from 1s to a year (8760h)`:                                                     {Every: -time.Second},
		`entry a: every "2562047h47m16.854775807s": must be whole seconds, from 1s to a year (8760h)`:                                {Every: math.MaxInt64},
		`entry a: end "1969-12-31T00:00:00Z": must be whole seconds in the years 1970 to 9999`:                                       {Every: time.Second, End: time.Date(1969, 12, 31, 0, 0, 0, 0, time.UTC)},
		`entry a: start "12026-01-01T00:00:00Z": must be whole seconds in the years 1970 to 9999`:                                    {Every: time.Second, Start: time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)},
		`entry a: body: not JSON, must be JSON`:                                                                                      {Every: time.Second, Body: json.RawMessage("hi")},
		`entry a: catch_up "none": must be none, one, all, or all(10,1h) with how many, from 1 to 500, and how old, from 1m to 168h`: {Every: time.Second, CatchUp: schedules.CatchUp{Policy: schedules.CatchUpNone, Max: 5}},
		`entry a: 16421 bytes as JSON, must be at most 16384`:                                                                        {Every: time.Second, Body: json.RawMessage(`"` + strings.Repeat("a", 16384-2) + `"`)},
		`entry a: headers "x": must have each name once, in whatever case`:                                                           {Every: time.Second, Header: map[string]string{"X": "1", "x": "1"}},
	}
	for want, e := range tests {
		e.Name, e.Task = "a", "print"
		if err := e.Validate(); err == nil || strings.Replace(err.Error(), `"X"`, `"x"`, 1) != want {
			t.Errorf("%v, want\n%s", err, want)
		}
	}
}

func TestEntryRoundTrip(t *testing.T) {
	t.Parallel()
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, e := range map[string]schedules.Entry{
		`{"every":"10s","task":"print"}`: {Every: 10 * time.Second, Task: "print"},
		`{"cron":"0 2 * * *","zone":"Europe/Berlin","start":"2030-01-02T03:04:05Z","end":"2031-01-02T03:04:05Z","jitter":"30s","catch_up":"all(10,1h)","overlap":"skip","paused":true,"task":"report","queue":"mail","body":{"full":true},"headers":{"X-Of":"beat"},"expires":"1h30m"}`: {
			Cron: "0 2 * * *", Zone: "Europe/Berlin", Start: at, End: at.AddDate(1, 0, 0), Jitter: 30 * time.Second,
			CatchUp: schedules.CatchUp{Policy: schedules.CatchUpAll, Max: 10, MaxAge: time.Hour}, Overlap: schedules.OverlapSkip, Paused: true,
			Task: "report", Queue: "mail", Body: json.RawMessage(`{"full":true}`), Header: map[string]string{"X-Of": "beat"}, Expires: 90 * time.Minute,
		},
		`{"at":"2030-01-02T03:04:05Z","catch_up":"all","task":"print","body":null}`: {At: at, Task: "print", CatchUp: schedules.CatchUp{Policy: schedules.CatchUpAll}, Body: json.RawMessage("null")},
	} {
		e.Name = "nightly"
		got, err := json.Marshal(e)
		if err != nil || string(got) != want {
			t.Errorf("%s, %v, want\n%s", got, err, want)
		}
		back, err := schedules.ParseEntry("nightly", got)
		if diff := cmp.Diff(e, back); diff != "" || err != nil {
			t.Error(err, diff)
		}
	}
	e, err := schedules.ParseEntry("a", []byte(" {\n \"at\": \"2030-01-02T04:04:05+01:00\", \"task\": \"print\", \"body\": { \"a\": [ 1 ] } }\n"))
	if err != nil || !e.At.Equal(at) || e.At.Location() != time.UTC || string(e.Body) != `{"a":[1]}` {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestParseCatchUp(t *testing.T) {
	t.Parallel()
	all := schedules.CatchUp{Policy: schedules.CatchUpAll}
	for text, want := range map[string]schedules.CatchUp{
		"none": {Policy: schedules.CatchUpNone}, "one": {Policy: schedules.CatchUpOne}, "all": all,
		"all(10)":       {Policy: schedules.CatchUpAll, Max: 10},
		"all(500,168h)": {Policy: schedules.CatchUpAll, Max: 500, MaxAge: 168 * time.Hour},
		"all(1,1h30m)":  {Policy: schedules.CatchUpAll, Max: 1, MaxAge: 90 * time.Minute},
	} {
		got, err := schedules.ParseCatchUp(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	if got, err := schedules.ParseCatchUp("all(10, 60m)"); err != nil || got.String() != "all(10,1h)" {
		t.Errorf("%s, %v", got, err)
	}
	for _, text := range []string{"", "All", "none()", "all(", "all()", "all(10", "all(501)", "all(-1)", "all(10,)", "all(10,1h,1)", "all(,1h)", "all(10,0s)", "all(10,169h)", "all(10,1h))", "all (10)", " one"} {
		if got, err := schedules.ParseCatchUp(text); err == nil || !errors.Is(err, wire.ErrInvalidName) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestProse(t *testing.T) {
	t.Parallel()
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, e := range map[string]schedules.Entry{
		"every second":     {Every: time.Second},
		"every 90 seconds": {Every: 90 * time.Second},
		"every 10 minutes": {Every: 10 * time.Minute},
		"every 2h30m":      {Every: 150 * time.Minute},
		"every 48 hours":   {Every: 48 * time.Hour},
		"every hour, from 2030-01-02T03:04:05Z, until 2030-01-03T03:04:05Z, up to 30s later": {Every: time.Hour, Start: at, End: at.AddDate(0, 0, 1), Jitter: 30 * time.Second},
		"once at 2030-01-02T03:04:05Z":                               {At: at},
		"weekdays at 09:00 Europe/Berlin":                            {Cron: "0 9 * * 1-5", Zone: "Europe/Berlin"},
		"every day at 02:00 Europe/Berlin":                           {Cron: "0 0 2 * * *", Zone: "Europe/Berlin"},
		"every day at 00:00 UTC":                                     {Cron: "@daily"},
		"every day at 06:30, 12:30 and 18:30 UTC":                    {Cron: "30 6,12,18 * * *"},
		"every day at 02:00:15 UTC":                                  {Cron: "15 0 2 * * *"},
		"Mondays and Sundays at 09:00 UTC":                           {Cron: "0 9 * * 0,MON"},
		"weekends in December at 09:00 UTC":                          {Cron: "0 9 * 12 SAT,SUN"},
		"every minute UTC":                                           {Cron: "* * * * *"},
		"every 15 minutes UTC":                                       {Cron: "*/15 * * * *"},
		"every 15 minutes on weekdays UTC":                           {Cron: "0,15,30,45 * * * 1-5"},
		"every 10 seconds UTC":                                       {Cron: "*/10 * * * * *"},
		"every second UTC":                                           {Cron: "* * * * * *"},
		"every hour UTC":                                             {Cron: "@hourly"},
		"every hour at :05 UTC":                                      {Cron: "5 * * * *"},
		"every 6 hours at :05:10 UTC":                                {Cron: "10 5 */6 * * *"},
		"every hour on Fridays UTC":                                  {Cron: "0 * * * 5"},
		"every hour on the 1st of each month UTC":                    {Cron: "0 * 1 * *"},
		"on the 1st and 22nd of each month at 00:00 UTC":             {Cron: "0 0 1,22 * *"},
		"on the 3rd, 11th and 13th of January and July at 00:00 UTC": {Cron: "0 0 3,11,13 1,7 *"},
		"on each day in June at 00:00 UTC":                           {Cron: "0 0 * 6 *"},
		"every day at 08:00 UTC":                                     {Cron: "0 8 1-31 * MON"},
		"every day at 07:00 UTC":                                     {Cron: "0 7 1 * 0-6"},
		"Mondays at 08:00 UTC":                                       {Cron: "0 8 */1 * MON"},
		"cron 0 0 13 * 5 UTC":                                        {Cron: "0 0 13 * 5"},
		"cron */7 * * * * UTC":                                       {Cron: "*/7 * * * *"},
		"cron */5 9-17 * * * Europe/Berlin":                          {Cron: "*/5 9-17 * * *", Zone: "Europe/Berlin"},
		"cron 7 7 7 UTC":                                             {Cron: "7 7 7"},
	} {
		if got := e.Prose(); got != want {
			t.Errorf("%s%s: %s, want %s", e.Cron, e.Every, got, want)
		}
	}
}

// entrySeeds are where the fuzzer begins.
var entrySeeds = []string{
	`{"every":"10s","task":"print"}`,
	`{"cron":"*/10 0 2-4/2 ? jan-MAR,12 fri-sun","zone":"Europe/Berlin","task":"report","queue":"mail","catch_up":"all(10,1h)"}`,
	`{"at":"2030-01-02T04:04:05+01:00","task":"print","body":{"a":[1,null]},"headers":{"X":"y"},"expires":"1h","jitter":"3s"}`,
	`{"cron":"@monthly","start":"2030-01-01T00:00:00Z","end":"2031-01-01T00:00:00Z","overlap":"skip","paused":true,"task":"a"}`,
	`{"every":"1s","every":"2s"}`, `nonsense`, `[]`, `{"cron":"0 0 31 2 *","task":"a"}`,
}

func FuzzParseEntry(f *testing.F) {
	for _, seed := range entrySeeds {
		f.Add("nightly", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		e, err := schedules.ParseEntry(name, data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "entry ") || strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Fatalf("%q", err)
			}
			return
		}
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := schedules.ParseEntry(name, text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if twice, _ := json.Marshal(again); string(twice) != string(text) {
			t.Fatalf("%s became %s", text, twice)
		}
		e.Prose()
		mustAscend(t, e)
	})
}

// mustAscend fails unless times ascend, and Next does not depend on where it is
// asked from.
func mustAscend(t *testing.T, e schedules.Entry) {
	t.Helper()
	s, err := e.Compile()
	if err != nil {
		t.Fatal(err)
	}
	after := time.Date(2026, 3, 28, 22, 0, 0, 0, time.UTC)
	for range 20 {
		next, ok := s.Next(after)
		if !ok {
			return
		}
		if !next.After(after) {
			t.Fatalf("%s after %s", next, after)
		}
		between := after.Add(time.Duration(rand.Int64N(int64(min(next.Sub(after), 1<<62)))))
		if again, ok := s.Next(between); !ok || !again.Equal(next) {
			t.Fatalf("%s after %s, %s after %s", next, after, again, between)
		}
		after = next
	}
}

func FuzzCron(f *testing.F) {
	for _, seed := range []string{"* * * * *", "*/10 1-5 2/3 ? JAN-mar,12 fri-SUN", "@weekly", "0 0 31 2 *", "0 2 29 2 */3", "TZ=UTC * * * * *", "1,,2 * * * *"} {
		f.Add(seed, "Europe/Berlin")
		f.Add(seed, "")
	}
	f.Fuzz(func(t *testing.T, cron, zone string) {
		e := schedules.Entry{Name: "entry", Task: "print", Cron: cron, Zone: zone}
		e.Prose()
		if e.Validate() == nil {
			mustAscend(t, e)
		}
	})
}
