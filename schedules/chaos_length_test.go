//go:build e2e && !nightly

package schedules

import "time"

const (
	troubleFor = 40 * time.Second
	stoppedFor = turnMost + 3*time.Second // longer than a turn may take
)
