package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Systemd is the service manager that started the process, where there is one:
// the protocol of sd_notify(3). The zero value tells nobody. What cannot be
// sent is lost, as systemd means it to be.
type Systemd struct {
	socket   string
	watchdog time.Duration // how often it wants to hear; 0 is never
}

// FindSystemd reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID. The
// environment stays as it is, for the process does not hand it on.
func FindSystemd(environ []string) Systemd {
	var s Systemd
	var pid string
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		switch name {
		case "NOTIFY_SOCKET":
			s.socket = value
		case "WATCHDOG_USEC":
			if usec, err := strconv.ParseInt(value, 10, 64); err == nil && usec > 0 {
				s.watchdog = time.Duration(usec) * time.Microsecond
			}
		case "WATCHDOG_PID":
			pid = value
		}
	}
	if pid != "" && pid != strconv.Itoa(os.Getpid()) {
		s.watchdog = 0 // it is meant for another process
	}
	return s
}

// Reloading tells that the process reads its settings anew, and returns what
// tells that it has. Before the process was ready, and once it drains, systemd
// would take that for ready, so nothing is told.
func (b *Board) Reloading(s Systemd) (done func()) {
	if !b.toldReady.Load() || b.draining.Load() {
		return func() {}
	}
	_ = s.send("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(monotonic().Microseconds(), 10))
	return func() { _ = s.send("READY=1") }
}

// send writes one message.
func (s Systemd) send(message string) error {
	if s.socket == "" {
		return nil
	}
	if s.socket[0] != '/' && s.socket[0] != '@' {
		return fmt.Errorf("NOTIFY_SOCKET %q: %w", s.socket, errors.ErrUnsupported)
	}
	// The name of an abstract socket begins with @ here as there.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.Write([]byte(message))
	return err
}

const (
	// lookEvery is how often a change is looked for.
	lookEvery = 250 * time.Millisecond
	// extendEvery and extendBy: a role that waits for its broker may take longer
	// to be ready than systemd gives a service to start.
	extendEvery = 20 * time.Second
	extendBy    = "EXTEND_TIMEOUT_USEC=60000000"
)

// Notify tells systemd how the process is until ctx is done: that it is ready,
// once; that it drains; a watchdog's sign of life while it is alive; and a line
// of status. It returns at once where there is nobody to tell.
func (b *Board) Notify(ctx context.Context, s Systemd) {
	if s.socket == "" {
		return
	}
	every := lookEvery
	if s.watchdog > 0 {
		every = min(every, max(s.watchdog/2, time.Millisecond))
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	n := notifier{systemd: s}
	for {
		n.tell(b.Report(), b.draining.Load(), time.Now())
		b.toldReady.Store(n.ready)
		select {
		case <-ctx.Done():
			n.tell(b.Report(), b.draining.Load(), time.Now()) // a short drain is told, too
			return
		case <-tick.C:
		}
	}
}

// notifier is what was told so far.
type notifier struct {
	systemd            Systemd
	ready, stopping    bool
	status             string
	barked, extendedAt time.Time
}

func (n *notifier) tell(r Report, draining bool, now time.Time) {
	var lines []string
	if r.Ready && !n.ready {
		n.ready = true
		lines = append(lines, "READY=1")
	}
	if draining && !n.stopping {
		n.stopping = true
		lines = append(lines, "STOPPING=1")
	}
	if !n.ready && !draining && r.Alive && now.Sub(n.extendedAt) >= extendEvery {
		n.extendedAt = now
		lines = append(lines, extendBy)
	}
	if w := n.systemd.watchdog; w > 0 && r.Alive && now.Sub(n.barked) >= w/2-w/10 {
		n.barked = now
		lines = append(lines, "WATCHDOG=1")
	}
	if status := r.status(); status != n.status {
		n.status = status
		lines = append(lines, "STATUS="+status)
	}
	if len(lines) > 0 {
		_ = n.systemd.send(strings.Join(lines, "\n"))
	}
}

// status is a report in one line.
func (r Report) status() string {
	if r.Ready {
		return "ready"
	}
	return strings.ReplaceAll(strings.Join(append(r.Stalled, r.Unready...), "; "), "\n", " ")
}
