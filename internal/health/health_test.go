package health

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pelton/engine/pulse"
)

// board has one part, which says what it is told to.
func board() (*Board, *atomic.Pointer[pulse.Health]) {
	var says atomic.Pointer[pulse.Health]
	says.Store(&pulse.Health{})
	b := new(Board)
	b.Watch("part", func() pulse.Health { return *says.Load() })
	return b, &says
}

func get(t *testing.T, addr, path, accept string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", accept)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestProbes(t *testing.T) {
	t.Parallel()
	b, says := board()
	s, err := Listen(t.Context(), "127.0.0.1:0", b)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	stalled := pulse.Health{Stalled: []string{"loop: no turn"}, Unready: []string{"nats: not connected"}}
	for _, tc := range []struct {
		health      pulse.Health
		path        string
		status      int
		body        string
		err         error
		askForReady bool
	}{
		{pulse.Health{}, "/livez", 200, "ok\n", nil, false},
		{pulse.Health{}, "/healthz", 200, "ok\n", nil, false},
		{pulse.Health{}, "/readyz", 200, "ok\n", nil, true},
		{pulse.Health{Unready: stalled.Unready}, "/livez", 200, "ok\n", nil, false},
		{pulse.Health{Unready: stalled.Unready}, "/readyz", 503, "part: nats: not connected\n", ErrUnhealthy, true},
		{stalled, "/livez", 503, "part: loop: no turn\n", ErrUnhealthy, false},
		{stalled, "/readyz", 503, "part: loop: no turn\npart: nats: not connected\n", ErrUnhealthy, true},
	} {
		says.Store(&tc.health)
		if status, body := get(t, s.Addr(), tc.path, "*/*"); status != tc.status || body != tc.body {
			t.Errorf("%s of %+v: %d %q, want %d %q", tc.path, tc.health, status, body, tc.status, tc.body)
		}
		if err := Ask(t.Context(), s.Addr(), tc.askForReady); !errors.Is(err, tc.err) {
			t.Errorf("%s of %+v: asked: %v", tc.path, tc.health, err)
		}
	}
	if status, _ := get(t, s.Addr(), "/else", ""); status != http.StatusNotFound {
		t.Errorf("another path: %d", status)
	}
	for path, accept := range map[string]string{"/readyz": "application/json", "/livez?verbose": ""} {
		_, body := get(t, s.Addr(), path, accept)
		var r Report
		if err := json.Unmarshal([]byte(body), &r); err != nil || r.Alive || len(r.Stalled) != 1 || len(r.Unready) != 1 {
			t.Errorf("%s: %v, %s", path, err, body)
		}
	}
}

func TestDraining(t *testing.T) {
	t.Parallel()
	if r := new(Board).Report(); r.Ready || !r.Alive || r.Unready[0] != "starting" {
		t.Errorf("without parts: %+v", r)
	}
	b, _ := board()
	b.Drain()
	if r := b.Report(); r.Ready || !r.Alive || r.Unready[0] != "draining" {
		t.Errorf("draining: %+v", r)
	}
}

func TestListenOnATakenPort(t *testing.T) {
	t.Parallel()
	b, _ := board()
	s, err := Listen(t.Context(), "127.0.0.1:0", b)
	if err != nil {
		t.Fatal(err)
	}
	addr := s.Addr()
	if _, err := Listen(t.Context(), addr, b); !errors.Is(err, ErrListen) || !strings.Contains(err.Error(), "telemetry.addr "+addr) {
		t.Errorf("a taken port: %v", err)
	}
	s.Close(t.Context())
	if err := Ask(t.Context(), addr, false); !errors.Is(err, ErrUnreachable) {
		t.Errorf("after the end: %v", err)
	}
}

// heard returns a function that waits for a message of systemd's socket that
// has a line, and that must not hear others before it.
func heard(t *testing.T, name string) func(line string, never ...string) {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return func(line string, never ...string) {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for buf := make([]byte, 4096); ; {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("%s was never heard: %v", line, err)
			}
			for got := range strings.SplitSeq(string(buf[:n]), "\n") {
				if strings.HasPrefix(got, line) {
					return
				}
				if slices.Contains(never, got) {
					t.Errorf("%s was heard before %s", got, line)
				}
			}
		}
	}
}

func TestNotify(t *testing.T) {
	t.Parallel()
	for _, socket := range []string{filepath.Join(t.TempDir(), "s"), "@" + filepath.Join(t.TempDir(), "s")} {
		hears := heard(t, socket)
		b, says := board()
		says.Store(&pulse.Health{Unready: []string{"nats: not connected"}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		s := FindSystemd([]string{"NOTIFY_SOCKET=" + socket, "WATCHDOG_USEC=20000"})
		go func() { defer close(ended); b.Notify(ctx, s) }()
		hears("STATUS=part: nats: not connected")
		b.Reloading(s)() // too early to say so
		hears("WATCHDOG=1", "RELOADING=1", "READY=1")
		says.Store(&pulse.Health{})
		hears("READY=1", "RELOADING=1")
		hears("WATCHDOG=1") // by then it is known that it was told
		done := b.Reloading(s)
		hears("RELOADING=1")
		done()
		hears("READY=1")
		b.Drain()
		b.Reloading(s)() // too late
		hears("STOPPING=1", "RELOADING=1", "READY=1")
		cancel()
		<-ended
	}
}

func TestNotifierSaysWhatIsNew(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	n := notifier{systemd: Systemd{socket: socket, watchdog: 10 * time.Second}}
	now := time.Now()
	ready := Report{Alive: true, Ready: true}
	waits := Report{Alive: true, Unready: []string{"waits"}}
	stalled := Report{Stalled: []string{"stalled"}}
	for _, step := range []struct {
		report   Report
		draining bool
		after    time.Duration
		want     string
	}{
		{waits, false, 0, extendBy + "\nWATCHDOG=1\nSTATUS=waits"},
		{waits, false, time.Second, ""},
		{waits, false, 20 * time.Second, extendBy + "\nWATCHDOG=1"},
		{ready, false, time.Second, "READY=1\nSTATUS=ready"},
		{stalled, false, 10 * time.Second, "STATUS=stalled"}, // and no sign of life
		{waits, true, 0, "STOPPING=1\nWATCHDOG=1\nSTATUS=waits"},
		{ready, true, 0, "STATUS=ready"},
	} {
		now = now.Add(step.after)
		n.tell(step.report, step.draining, now)
		_ = n.systemd.send("end")
		got := ""
		for buf := make([]byte, 4096); ; {
			read, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if string(buf[:read]) == "end" {
				break
			}
			got += string(buf[:read])
		}
		if got != step.want {
			t.Errorf("%+v: told %q, want %q", step.report, got, step.want)
		}
	}
}

func TestFindSystemd(t *testing.T) {
	t.Parallel()
	if s := FindSystemd([]string{"NOTIFY_SOCKET=/s", "WATCHDOG_USEC=5000000", "WATCHDOG_PID=1"}); s.socket != "/s" || s.watchdog != 0 {
		t.Errorf("the watchdog of another process: %+v", s)
	}
	if err := FindSystemd([]string{"NOTIFY_SOCKET=vsock:1:2"}).send("READY=1"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("vsock: %v", err)
	}
	if err := FindSystemd(nil).send("READY=1"); err != nil {
		t.Errorf("nobody to tell: %v", err)
	}
}
