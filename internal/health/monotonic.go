package health

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// monotonic is the clock by which systemd orders what it is told. The kernel's
// uptime counts suspensions in, which that clock leaves out; systemd asks only
// that it lies after its own request.
func monotonic() time.Duration {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	seconds, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return time.Duration(seconds * float64(time.Second))
}
