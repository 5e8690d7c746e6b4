//go:build e2e && !nightly

package schedules

import "time"

const (
	troubleFor = 40 * time.Second
	stoppedFor = 22 * time.Second // longer than a turn may take
)
