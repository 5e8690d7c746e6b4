//go:build e2e && nightly

package schedules

import "time"

const (
	troubleFor = 5 * time.Minute
	stoppedFor = 30 * time.Second // longer than a turn may take
)
