package schedules_test

import (
	"fmt"
	"log"
	"time"

	"pelton/engine"
	"pelton/schedules"
)

func ExampleEvery() {
	type Ping struct {
		Host string `json:"host"`
	}
	ping := engine.NewTask[Ping, string]("ping")
	e := schedules.Every("ping-a", 10*time.Second, ping, Ping{Host: "a"})
	e.Overlap = schedules.OverlapSkip
	fmt.Println(e.Name, e.Every, e.Task, e.Queue, string(e.Body))
	// Output: ping-a 10s ping default {"host":"a"}
}

func ExampleCron() {
	report := engine.NewTask[string, string]("report")
	e := schedules.Cron("weekly-report", "0 9 * * MON-FRI", report, "sales")
	e.Zone, e.CatchUp = "Europe/Berlin", schedules.CatchUp{Policy: schedules.CatchUpAll, Max: 5}
	fmt.Println(e.Prose())
	// Output: weekdays at 09:00 Europe/Berlin
}

func ExampleAt() {
	greet := engine.NewTask[string, string]("greet")
	e := schedules.At("new-year", time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), greet, "world")
	fmt.Println(e.Prose())
	// Output: once at 2030-01-01T00:00:00Z
}

// The clock that leaves an hour out.
func ExampleSchedule_Next() {
	nightly, err := schedules.Entry{Name: "nightly", Cron: "30 2 * * *", Zone: "Europe/Berlin", Task: "report"}.Compile()
	if err != nil {
		log.Fatal(err)
	}
	at := time.Date(2027, 3, 26, 12, 0, 0, 0, time.UTC)
	for range 3 {
		at, _ = nightly.Next(at)
		fmt.Println(at.Format(time.RFC3339), schedules.OccurrenceID("nightly", at))
	}
	// Output:
	// 2027-03-27T01:30:00Z nightly-1806111000
	// 2027-03-28T01:00:00Z nightly-1806195600
	// 2027-03-29T00:30:00Z nightly-1806280200
}

func ExampleImportCelery() {
	entries, wrong := schedules.ImportCelery([]byte(`{
		"Cleanup": {"task": "app.tasks.cleanup", "schedule": 30.0},
		"report": {"task": "app.tasks.report", "schedule": {"minute": "0", "hour": "7", "day_of_week": "mon"}, "kwargs": {"full": true}},
		"sunset": {"task": "app.tasks.lights", "schedule": {"event": "sunset", "lat": 52.5, "lon": 13.4}}
	}`))
	for _, e := range entries {
		fmt.Println(e.Name, e.Prose(), e.Task)
	}
	fmt.Println(len(wrong), "cannot be taken over")
	// Output:
	// cleanup every 30 seconds cleanup
	// report Mondays at 07:00 UTC report
	// 1 cannot be taken over
}
