package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// What [Ask] returns.
var (
	// ErrUnhealthy: the process answers, and says no. The message has its
	// reasons.
	ErrUnhealthy = errors.New("unhealthy")
	// ErrUnreachable: nobody answers as a process of Pelton does.
	ErrUnreachable = errors.New("no answer")
)

// answerMost bounds what is read of an answer.
const answerMost = 64 << 10

// Ask asks the process that listens at addr whether it is alive, or ready. An
// address that stands for all of a host is asked on the loopback.
func Ask(ctx context.Context, addr string, ready bool) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", addr, ErrUnreachable, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	path := "/livez"
	if ready {
		path = "/readyz"
	}
	url := "http://" + net.JoinHostPort(host, port) + path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", addr, ErrUnreachable, err)
	}
	// No proxy of the environment stands between a process and its probe.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", url, ErrUnreachable, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, answerMost))
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w: %w", url, ErrUnreachable, err)
	case response.StatusCode == http.StatusOK:
		return nil
	case response.StatusCode == http.StatusServiceUnavailable:
		return fmt.Errorf("%w: %s", ErrUnhealthy, strings.TrimSpace(string(body)))
	}
	return fmt.Errorf("%s: %w: status %d", url, ErrUnreachable, response.StatusCode)
}
