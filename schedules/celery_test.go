package schedules_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"pelton/schedules"
)

// imported is what became of a beat_schedule: the entries as the bucket would
// hold them, and what is said of the others.
func imported(data string) (entries, errs []string) {
	list, wrong := schedules.ImportCelery([]byte(data))
	for _, e := range list {
		text, err := json.Marshal(e)
		if err != nil {
			text = []byte(err.Error())
		}
		entries = append(entries, e.Name+" "+string(text))
	}
	for _, err := range wrong {
		errs = append(errs, err.Error())
	}
	return entries, errs
}

// TestImportCelery takes over what can be, one entry each.
func TestImportCelery(t *testing.T) {
	t.Parallel()
	for entry, want := range map[string]string{
		`"add": {"task": "tasks.add", "schedule": 30.0, "args": [16, 16]}`:                                                                         `add {"every":"30s","task":"add","body":[16,16]}`,
		`"Send Report!": {"task": "proj.tasks.report", "schedule": 3600, "kwargs": {"full": true}, "args": []}`:                                    `send-report {"every":"1h","task":"report","body":{"full":true}}`,
		`"a_b.c": {"task": "t", "schedule": 1, "args": [1], "kwargs": {"b": null}}`:                                                                `a-b-c {"every":"1s","task":"t","body":{"args":[1],"kwargs":{"b":null}}}`,
		`"n": {"task": "t", "schedule": 60, "args": null, "kwargs": null, "options": null, "relative": true}`:                                      `n {"every":"1m","task":"t"}`,
		`"n": {"task": "t", "schedule": 60, "options": {"queue": "mail", "expires": 15.0, "headers": {"X": "y"}}}`:                                 `n {"every":"1m","task":"t","queue":"mail","headers":{"X":"y"},"expires":"15s"}`,
		`"n": {"task": "t", "schedule": {"minute": "0", "hour": 7, "day_of_week": 1}}`:                                                             `n {"cron":"0 7 * * 1","task":"t"}`,
		`"n": {"task": "t", "schedule": "0:00:30"}`:                                                                                                `n {"every":"30s","task":"t"}`,
		`"n": {"task": "t", "schedule": "2 days, 1:02:03"}`:                                                                                        `n {"every":"49h2m3s","task":"t"}`,
		`"n": {"task": "t", "schedule": {}}`:                                                                                                       `n {"cron":"* * * * *","task":"t"}`,
		`"n": {"task": "t", "schedule": {"minute": "*/15", "hour": "8-17/2, 20", "day_of_week": "monday-friday", "month_of_year": "January,mar"}}`: `n {"cron":"*/15 8-17/2,20 * Jan,mar mon-fri","task":"t"}`,
		`"n": {"task": "t", "schedule": {"minute": [0, 30], "hour": ["1", 2], "day_of_month": "1,15"}}`:                                            `n {"cron":"0,30 1,2 1,15 * *","task":"t"}`,
		`"n": {"task": "t", "schedule": {"minute": "0", "hour": "22-2", "day_of_week": "sat-mon"}}`:                                                `n {"cron":"0 22,23,0,1,2 * * 6,0,1","task":"t"}`,
		`"n": {"task": "t", "schedule": {"minute": "50-10/10", "day_of_month": "30-2", "month_of_year": "nov-1"}}`:                                 `n {"cron":"50,0,10 * 30,31,1,2 11,12,1 *","task":"t"}`,
		`"n": {"task": "t", "schedule": "<crontab: 0 7 1 * * (m/h/dM/MY/d)>"}`:                                                                     `n {"cron":"0 7 1 * *","task":"t"}`,
		`"n": {"task": "t", "schedule": "<crontab: 0 7 1 2 3 (m/h/d/dM/MY)>"}`:                                                                     ``,
		`"n": {"task": "t", "schedule": "<crontab: 0 7 mon * 3 (m/h/d/dM/MY)>"}`:                                                                   `n {"cron":"0 7 * 3 mon","task":"t"}`,
		`"n": {"task": "t", "schedule": {"minute": 0, "day_of_month": "*/2", "day_of_week": "fri"}}`:                                               `n {"cron":"0 * */2 * fri","task":"t"}`,
	} {
		entries, errs := imported("{" + entry + "}")
		if got := strings.Join(entries, "\n"); got != want || (len(errs) > 0) != (want == "") {
			t.Errorf("%s:\n%s %v, want\n%s", entry, got, errs, want)
		}
	}
}

// TestImportCeleryRefuses names what cannot be taken over.
func TestImportCeleryRefuses(t *testing.T) {
	t.Parallel()
	const (
		solar   = `schedule: must not be solar: when the sun rises is not known here; let a task work it out and send the next one with an ETA`
		seconds = `schedule: must be seconds or the fields of a crontab; seconds are whole, from 1 to a year's`
	)
	for entry, want := range map[string]string{
		`"n": {"task": "t", "schedule": {"event": "sunset", "lat": -37.8, "lon": 144.9}}`:       `entry "n": ` + solar,
		`"n": {"task": "t", "schedule": "<solar: sunset at latitude -37.8, longitude: 144.9>"}`: `entry "n": ` + solar,
		`"n": {"task": "t"}`:                                                                      `entry "n": schedule: must be given`,
		`"n": {"schedule": 5}`:                                                                    `entry "n": task: must be given`,
		`"n": {"task": "a.b c", "schedule": 5}`:                                                   `entry n: task "b c": must match [A-Za-z0-9][A-Za-z0-9_-]{0,63}`,
		`"n": {"task": "t", "schedule": 0.5}`:                                                     `entry "n": ` + seconds,
		`"n": {"task": "t", "schedule": 0}`:                                                       `entry "n": ` + seconds,
		`"n": {"task": "t", "schedule": -5}`:                                                      `entry "n": ` + seconds,
		`"n": {"task": "t", "schedule": 1e300}`:                                                   `entry "n": ` + seconds,
		`"n": {"task": "t", "schedule": null}`:                                                    `entry "n": ` + seconds,
		`"n": {"task": "t", "schedule": [5]}`:                                                     `entry "n": ` + seconds,
		`"n": {"task": "t", "schedule": "0:00:00.5"}`:                                             `entry "n": schedule "0:00:00.5": must be seconds or the fields of a crontab`,
		`"n": {"task": "t", "schedule": "0:00:00"}`:                                               `entry n: every, cron, at: one of them must be given`,
		`"n": {"task": "t", "schedule": "<crontab: 0 7 1 (m/h/dM/MY/d)>"}`:                        `entry "n": schedule "<crontab: 0 7 1 (m/h/dM/MY/d)>": must be seconds or the fields of a crontab`,
		`"n": {"task": "t", "schedule": {"minutes": 5}}`:                                          `entry "n": schedule "minutes": must be seconds or the fields of a crontab`,
		`"n": {"task": "t", "schedule": {"minute": null}}`:                                        `entry "n": schedule: minute: must be a text, a number or a list of numbers`,
		`"n": {"task": "t", "schedule": {"minute": []}}`:                                          `entry "n": schedule: minute: must be a text, a number or a list of numbers`,
		`"n": {"task": "t", "schedule": {"minute": {"a": 1}}}`:                                    `entry "n": schedule: minute: must be a text, a number or a list of numbers`,
		`"n": {"task": "t", "schedule": {"minute": 61}}`:                                          `entry n: cron "61 * * * *": minute must be from 0 to 59, got "61"`,
		`"n": {"task": "t", "schedule": {"hour": "22-x"}}`:                                        `entry "n": schedule: hour must be from 0 to 23, got "x"`,
		`"n": {"task": "t", "schedule": {"hour": "22-2/0"}}`:                                      `entry "n": schedule: hour must have a step above 0, got "22-2/0"`,
		`"n": {"task": "t", "schedule": {"minute": 0, "day_of_month": 13, "day_of_week": "fri"}}`: `entry "n": schedule: day_of_month and day_of_week must not both be given: Celery runs where both match, a cron line where either does`,
		`"n": {"task": "t", "schedule": 5, "args": {"a": 1}}`:                                     `entry "n": args: must not be of type object`,
		`"n": {"task": "t", "schedule": 5, "arg": []}`:                                            `entry "n": unknown field "arg"`,
		`"n": {"task": "t", "schedule": 5, "options": {"priority": 5}}`:                           `entry "n": unknown field "priority"`,
		`"n": {"task": "t", "schedule": 5, "options": {"expires": "2030-01-01"}}`:                 `entry "n": options.expires: must be whole seconds, up to a year's`,
		`"n": {"task": "t", "schedule": 5, "options": {"queue": "Mail"}}`:                         `entry n: queue "Mail": must match [a-z0-9][a-z0-9-]{0,63}`,
		`"n": {"task": "t", "schedule": 5, "options": {"queue": "n"}}`:                            `entry n: queue "n": must not be the entry's own name: its ids would look like the queue's own, <queue>-<digits>`,
		`"n": 5`:                            `entry "n": must not be of type number`,
		`"": {"task": "t", "schedule": 5}`:  `entry "": must match [a-z0-9][a-z0-9-]{0,63}`,
		`"日": {"task": "t", "schedule": 5}`: `entry "日": entry "": must match [a-z0-9][a-z0-9-]{0,63}`,
	} {
		entries, errs := imported("{" + entry + `, "zz": {"task": "zz", "schedule": 5}}`)
		if !slices.Equal(entries, []string{`zz {"every":"5s","task":"zz"}`}) {
			t.Errorf("%s: its neighbour became %v", entry, entries)
		}
		if got := strings.Join(errs, "\n"); got != want {
			t.Errorf("%s:\n%s, want\n%s", entry, got, want)
		}
	}
	for data, want := range map[string]string{
		``:           `beat_schedule: empty, must be JSON`,
		`[]`:         `beat_schedule: must be a JSON object`,
		`{"a": NaN}`: `beat_schedule: not JSON at byte 7, must be JSON`,
		`{"a": {"task": "t", "schedule": 5}, "a": {}}`: `beat_schedule: field "a": must stand there once`,
		`{"beat_schedule": 5}`:                         `beat_schedule: must be a JSON object`,
		`{"beat_schedule": {}, "timezone": 5}`:         `timezone: must be a text`,
	} {
		if entries, errs := imported(data); len(entries) > 0 || strings.Join(errs, "\n") != want {
			t.Errorf("%s: %v %v, want %s", data, entries, errs, want)
		}
	}
}

// TestImportCeleryTogether is a configuration with its zone, and names that meet.
func TestImportCeleryTogether(t *testing.T) {
	t.Parallel()
	entries, errs := imported(`{"timezone": "Europe/Berlin", "enable_utc": true, "beat_schedule": {
		"nightly": {"task": "a.report", "schedule": {"minute": 0, "hour": 2}},
		"ping": {"task": "ping", "schedule": 10.0},
		"Ping": {"task": "ping", "schedule": 10.0},
		"other": {"task": "b.report", "schedule": 10.0},
		"again": {"task": "a.report", "schedule": 10.0}
	}}`)
	if want := []string{`again {"every":"10s","task":"report"}`, `nightly {"cron":"0 2 * * *","zone":"Europe/Berlin","task":"report"}`, `ping {"every":"10s","task":"ping"}`}; !slices.Equal(entries, want) {
		t.Errorf("%v", entries)
	}
	if want := []string{
		`entry "other": task "b.report": becomes report, as "a.report" does: one must be renamed`,
		`entry "ping": its name becomes ping, as that of "Ping" does: one must be renamed`,
	}; !slices.Equal(errs, want) {
		t.Errorf("%q", errs)
	}
}

func FuzzImportCelery(f *testing.F) {
	for _, seed := range []string{
		`{"a": {"task": "tasks.add", "schedule": 30.0, "args": [16], "kwargs": {"b": 1}, "options": {"queue": "mail", "expires": 5}}}`,
		`{"timezone": "Asia/Tokyo", "beat_schedule": {"a b": {"task": "t", "schedule": {"minute": "*/5", "hour": "22-2", "day_of_week": "sat-mon"}}}}`,
		`{"a": {"task": "t", "schedule": "<crontab: 0 7 mon * 3 (m/h/d/dM/MY)>"}}`,
		`{"a": {"task": "t", "schedule": {"event": "sunset"}}, "A": 5}`,
		`[]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, errs := schedules.ImportCelery(data)
		for _, e := range entries {
			text, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := schedules.ParseEntry(e.Name, text); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
		}
		for _, err := range errs {
			if strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Fatalf("%q", err)
			}
		}
	})
}
