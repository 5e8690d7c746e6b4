package schedules_test

import (
	"fmt"
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
