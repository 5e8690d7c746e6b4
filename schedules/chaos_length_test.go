//go:build e2e && !nightly

package schedules

import "time"

const (
	troubleFor = 40 * time.Second
	stoppedFor = 8 * time.Second
)
