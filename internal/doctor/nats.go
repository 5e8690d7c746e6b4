package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// oldest is the oldest server on which the promises hold.
var oldest = [3]int{2, 15, 2}

// connection looks at the server that answers and at the way to it.
func connection(_ context.Context, cfg Config) ([]Finding, error) {
	if cfg.Client == nil {
		return nil, cfg.Unreachable
	}
	nc := cfg.Client.Conn()
	rtt, err := nc.RTT()
	if err != nil {
		return nil, err
	}
	version := nc.ConnectedServerVersion()
	found := []Finding{note(OK, "", "nats-server %s, round trip %s", version, rtt.Round(time.Microsecond))}
	if older(version, oldest) {
		found = append(found, note(Fail, "install nats-server 2.15.2 or later",
			"nats-server %s is older than 2.15.2: an acknowledged task may be lost", version))
	}
	if _, err := nc.TLSConnectionState(); err != nil && !isLoopback(nc.ConnectedAddr()) {
		found = append(found, note(Warn, "nats.tls, and tls in the server's configuration",
			"the connection to %s is not encrypted", nc.ConnectedAddr()))
	}
	return found, nil
}

// older compares versions; one that cannot be read is as old as can be.
func older(version string, than [3]int) bool {
	var have [3]int
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &have[0], &have[1], &have[2]); err != nil {
		return true
	}
	for i := range have {
		if have[i] != than[i] {
			return have[i] < than[i]
		}
	}
	return false
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr == "" || addr == "pipe" // in the process
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// account compares what may be stored with what is and with what the streams
// may take.
func account(ctx context.Context, cfg Config) ([]Finding, error) {
	info, err := cfg.Client.JetStream().AccountInfo(ctx)
	if err != nil {
		return nil, err
	}
	return storage(info, cfg), nil
}

func storage(info *jetstream.AccountInfo, cfg Config) []Finding {
	limit := info.Limits.MaxStore
	if limit <= 0 {
		return []Finding{note(OK, "", "%d bytes stored, the account has no limit of its own", info.Store)}
	}
	var wanted int64
	for _, s := range cfg.Topology.Streams {
		wanted += max(s.Config.MaxBytes, 0) * int64(max(s.Config.Replicas, 1))
	}
	found := []Finding{note(OK, "", "%d of %d bytes stored", info.Store, limit)}
	if info.Store*10 >= uint64(limit)*8 {
		found = append(found, note(Warn, "raise the account's max_file, or queues.*.max_bytes below it",
			"%d of the account's %d bytes are used: a full account refuses tasks and may tear a batch", info.Store, limit))
	}
	if wanted > limit {
		found = append(found, note(Warn, "lower queues.*.max_bytes, or raise the account's max_file",
			"the streams may take %d bytes and the account has %d", wanted, limit))
	}
	return found
}

// varz is what is read of a server's monitoring.
type varz struct {
	JetStream struct {
		Config struct {
			SyncInterval time.Duration `json:"sync_interval"`
			SyncAlways   bool          `json:"sync_always"`
		} `json:"config"`
	} `json:"jetstream"`
}

const syncAlways = "sync_interval: always"

// durability says whether what was acknowledged survives a power cut. Clients
// cannot see it; the server's monitoring port tells.
func durability(ctx context.Context, cfg Config) ([]Finding, error) {
	if cfg.MonitorURL == "" {
		return []Finding{note(Warn, "nats.monitor_url: http://127.0.0.1:8222",
			"cannot tell whether acknowledged tasks survive a power cut: nats.monitor_url is not set")}, nil
	}
	v, err := monitored(ctx, cfg.MonitorURL)
	if err != nil {
		return nil, fmt.Errorf("nats.monitor_url: %w", err)
	}
	switch sync := v.JetStream.Config; {
	case sync.SyncAlways:
		return []Finding{note(OK, "", "%s: an acknowledged task survives a power cut", syncAlways)}, nil
	case sync.SyncInterval > 0:
		return []Finding{note(Warn, syncAlways, "sync_interval %s: a power cut may lose acknowledged tasks", sync.SyncInterval)}, nil
	}
	return nil, errors.New("nats.monitor_url: the server does not tell its sync_interval")
}

// monitored asks a server's monitoring port. Errors do not have the address,
// for a password may stand in it.
func monitored(ctx context.Context, address string) (v varz, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(address, "/")+"/varz", http.NoBody)
	if err != nil {
		return v, withoutURL(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return v, withoutURL(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return v, fmt.Errorf("status %d, must be 200", response.StatusCode)
	}
	err = json.NewDecoder(http.MaxBytesReader(nil, response.Body, 16<<20)).Decode(&v)
	return v, err
}

// withoutURL is why a request went wrong, without where it went.
func withoutURL(err error) error {
	if where, ok := errors.AsType[*url.Error](err); ok {
		return where.Err
	}
	return err
}

// Clocks that differ by this much are told: times of tasks and of positions are
// compared with the server's.
const (
	skewWarn = time.Second
	skewFail = 5 * time.Second
)

// clock compares this machine's with the server's, as a stream's state has it.
func clock(ctx context.Context, cfg Config) ([]Finding, error) {
	asked := time.Now()
	s, err := cfg.Client.JetStream().Stream(ctx, cfg.Client.Namespace().DeadStream())
	if err != nil {
		return nil, fmt.Errorf("the server's time: stream %s: %w", cfg.Client.Namespace().DeadStream(), err)
	}
	trip := time.Since(asked)
	return []Finding{skew(s.CachedInfo().TimeStamp.Sub(asked.Add(trip / 2)))}, nil
}

func skew(d time.Duration) Finding {
	const fix = "synchronize the clocks (NTP) of this machine and of the server"
	switch off := d.Abs(); {
	case off > skewFail:
		return note(Fail, fix, "the server's clock differs by %s, at most %s: times of tasks are wrong", d.Round(time.Millisecond), skewFail)
	case off > skewWarn:
		return note(Warn, fix, "the server's clock differs by %s, should be at most %s", d.Round(time.Millisecond), skewWarn)
	}
	return note(OK, "", "the server's clock differs by %s", d.Round(time.Millisecond))
}

// permissions says as whom the doctor looks.
func permissions(ctx context.Context, cfg Config) ([]Finding, error) {
	m, err := cfg.Client.Conn().RequestWithContext(ctx, "$SYS.REQ.USER.INFO", nil)
	if err != nil {
		return []Finding{note(Warn, "allow $SYS.REQ.USER.INFO, or ignore this", "the user may not ask for its own rights: %v", err)}, nil
	}
	var answer struct {
		Data struct {
			User        string          `json:"user"`
			Account     string          `json:"account"`
			Permissions json.RawMessage `json:"permissions"`
		} `json:"data"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return nil, fmt.Errorf("the answer to $SYS.REQ.USER.INFO: %w", err)
	}
	user := answer.Data
	if user.User == "" {
		user.User = "(none)"
	}
	if len(user.Permissions) > 0 && string(user.Permissions) != "null" {
		return []Finding{note(OK, "", "user %s of account %s, with rights of its own", user.User, user.Account)}, nil
	}
	level, fix := OK, ""
	if !isLoopback(cfg.Client.Conn().ConnectedAddr()) {
		level, fix = Warn, "give each role a user of its own with the rights that it needs"
	}
	return []Finding{note(level, fix, "user %s of account %s may do everything", user.User, user.Account)}, nil
}
