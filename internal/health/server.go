package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// ErrListen is what [Listen] returns where the address cannot be had; the
// message names it.
var ErrListen = errors.New("cannot listen")

// closeWithin bounds how long an answer under way holds up the end.
const closeWithin = time.Second

// Server answers probes.
type Server struct {
	http http.Server
	addr net.Addr
	done chan struct{}
}

// Listen answers probes at addr, host:port, until Close. Port 0 takes a free
// one, see [Server.Addr]. It listens once it has returned.
//
//	/livez, /healthz  200 while the loops make progress, 503 otherwise
//	/readyz           200 while work is taken, 503 otherwise
//
// A 503 has one line for each reason; with ?verbose, or where JSON is asked for
// by the header Accept, the answer is the whole [Report].
func Listen(ctx context.Context, addr string, b *Board) (*Server, error) {
	var cfg net.ListenConfig
	listener, err := cfg.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("telemetry.addr %s: %w: %w", addr, ErrListen, err)
	}
	s := &Server{addr: listener.Addr(), done: make(chan struct{})}
	s.http = http.Server{
		Handler:           b.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(listener) // ends by Close alone
	}()
	return s, nil
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.addr.String() }

// Close ends the server and waits for it. It comes last in a shutdown.
func (s *Server) Close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close()
	}
	<-s.done
}

// Handler answers probes; it is for a server that has other paths, too.
func (b *Board) Handler() http.Handler {
	mux := http.NewServeMux()
	live := func(w http.ResponseWriter, r *http.Request) {
		report := b.Report()
		answer(w, r, report, report.Alive, report.Stalled)
	}
	mux.HandleFunc("GET /livez", live)
	mux.HandleFunc("GET /healthz", live)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		report := b.Report()
		answer(w, r, report, report.Ready, append(report.Stalled, report.Unready...))
	})
	return mux
}

func answer(w http.ResponseWriter, r *http.Request, report Report, ok bool, reasons []string) {
	status, body := http.StatusOK, "ok\n"
	if !ok {
		status, body = http.StatusServiceUnavailable, strings.Join(reasons, "\n")+"\n"
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Query().Has("verbose") || strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(report) // whoever has gone misses nothing
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}
