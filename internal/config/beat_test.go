package config_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pelton/internal/config"
)

func TestBeatEntries(t *testing.T) {
	t.Parallel()
	c := load(t, config.Options{
		Dir: folder(t, map[string]string{"pelton.yaml": `
beat:
  entries:
    nightly: {cron: "0 0 2 * * *", zone: Europe/Berlin, task: report, body: {full: true, parts: [1, 2.5, null, "x"]}, catch_up: one, overlap: skip, jitter: 30s}
    ping:
      every: 10s
      task: print
      body: {message: ping}
      headers: {X-Of: beat}
    list: {every: 1m, task: print, body: [1, 2]}
    text: {every: 1m, task: print, body: '"hi"'}
`}),
		Environ: []string{`PELTON_BEAT__ENTRIES__PING__BODY={"message":"pong"}`},
	})
	want := map[string]config.Entry{
		"nightly": {Cron: "0 0 2 * * *", Zone: "Europe/Berlin", Task: "report", Body: `{"full":true,"parts":[1,2.5,null,"x"]}`, CatchUp: "one", Overlap: "skip", Jitter: 30 * time.Second},
		"ping":    {Every: 10 * time.Second, Task: "print", Body: `{"message":"pong"}`, Headers: map[string]string{"X-Of": "beat"}},
		"list":    {Every: time.Minute, Task: "print", Body: `[1,2]`},
		"text":    {Every: time.Minute, Task: "print", Body: `"hi"`},
	}
	if diff := cmp.Diff(want, c.Beat.Entries); diff != "" {
		t.Error(diff)
	}
	if got := c.Source("beat.entries.nightly.cron"); got != "pelton.yaml:4" {
		t.Errorf("source %q", got)
	}
}

func TestBeatEntriesWrong(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		`{Nightly: {}}`:                 `pelton.yaml:1: beat.entries has an entry that must match [a-z0-9][a-z0-9-]{0,63}, got Nightly`,
		`{a: {body: hi}}`:               `pelton.yaml:1: beat.entries.a.body must be JSON, such as {"message":"hi"}, got hi`,
		`{a: {body: {1: x}}}`:           `pelton.yaml:1: beat.entries.a.body must have texts as keys`,
		`{a: {body: {k: !!binary x}}}`:  `pelton.yaml:1: beat.entries.a.body must have no tag of YAML's`,
		`{a: {body: {k: &x 1, l: *x}}}`: `pelton.yaml:1: beat.entries.a.body must have no aliases of YAML's`,
		`{a: {every: often}}`:           `pelton.yaml:1: beat.entries.a.every must be a duration such as 500ms, 25s or 1h30m, got often`,
		`{a: {headers: {"a b": c}}}`:    `pelton.yaml:1: beat.entries.a.headers has a header that must match ^[A-Za-z0-9-]{1,128}$, got "a b"`,
		`{a: {evry: 1s}}`:               `pelton.yaml:1: beat.entries.a.evry is unknown, did you mean beat.entries.a.every?`,
	}
	for entries, want := range tests {
		_, err := config.Load(config.Options{Dir: folder(t, map[string]string{"pelton.yaml": "beat: {entries: " + entries + "}"})})
		if err == nil || err.Error() != want {
			t.Errorf("%s:\n%v, want\n%s", entries, err, want)
		}
	}
}
