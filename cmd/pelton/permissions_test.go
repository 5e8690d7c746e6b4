package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pelton/engine/enginetest"
)

func TestSetupPermissions(t *testing.T) {
	t.Parallel()
	shipped, err := os.ReadFile("../../deployments/nats/permissions.conf")
	if err != nil {
		t.Fatal(err)
	}
	got := runIn(t.Context(), nil, nil, "setup", "permissions")
	if got.code != exitOK || got.stdout != string(shipped) || got.stderr != "" {
		t.Errorf("exit code %d, %s: not what is shipped", got.code, got.stderr)
	}
	got = runIn(t.Context(), nil, nil, "setup", "permissions", "--queues", "mail,slow", "--routes", "orders", "--namespace", "acme")
	for _, text := range []string{
		"# Written by: pelton setup permissions --namespace acme --queues mail,slow --routes orders\n",
		`"acme.ledger.slow.orders.*.*"`, `"$JS.ACK.ACME_TASKS_mail.workers.>"`,
	} {
		if got.code != exitOK || !strings.Contains(got.stdout, text) {
			t.Errorf("exit code %d, %s: %q is missing", got.code, got.stderr, text)
		}
	}
	t.Run("lanes", permissionsOfLanes)
	for _, args := range [][]string{{"--lanes", "mail_high"}, {"--lanes", "default"}, {"--lanes", "default_urgent"}, {"--routes", "*"}, {"--queues", "Mail"}, {"--namespace", "a.b"}} {
		got := runIn(t.Context(), nil, nil, append([]string{"setup", "permissions"}, args...)...)
		if got.code != exitUsage || got.stdout != "" || !strings.Contains(got.stderr, args[1]) {
			t.Errorf("%v: exit code %d: %s", args, got.code, got.stderr)
		}
	}
}

// permissionsOfLanes: lanes are given, or are those that queues declare.
func permissionsOfLanes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pelton.yaml")
	if err := os.WriteFile(file, []byte("queues:\n  default: {priorities: [low]}\n  mail: {priorities: [high]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--queues", "default,mail", "--lanes", "default_low,mail_high"}, {"--config", file}} {
		got := runIn(t.Context(), nil, nil, append([]string{"setup", "permissions"}, args...)...)
		for _, text := range []string{
			"# Written by: pelton setup permissions --queues default,mail --lanes default_low,mail_high\n",
			`"pelton.task.default_low.*"`, `"$JS.ACK.PELTON_TASKS_mail_high.workers.>"`,
		} {
			if got.code != exitOK || !strings.Contains(got.stdout, text) {
				t.Errorf("%v: exit code %d, %s: %q is missing", args, got.code, got.stderr, text)
			}
		}
	}
}

// What the user may not do is told with its subject, and not waited for.
func TestForbidden(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats-server.conf")
	users := `authorization { users: [ {user: guest, password: guest, permissions: { publish: { deny: [ "$JS.API.STREAM.>", "pelton.task.>" ] } } } ] }`
	if err := os.WriteFile(file, []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	broker := enginetest.Start(t, func(cfg *enginetest.ServerConfig) { cfg.ConfigFile = file })
	env := []string{"NATS_URL=" + strings.Replace(broker.URL(), "nats://", "nats://guest:guest@", 1)}
	for subject, args := range map[string][]string{
		"$JS.API.STREAM.INFO.PELTON_DEAD": {"setup", "apply", "--timeout", "1m"},
		"$JS.API.STREAM.NAMES":            {"queue", "ls"},
		"pelton.task.default.print":       {"send", "print", "1"},
	} {
		got := runIn(testContext(t), env, nil, args...)
		if got.code != exitRefused || !strings.Contains(got.stderr, "not permitted to publish to "+subject) {
			t.Errorf("%v: exit code %d: %s", args, got.code, got.stderr)
		}
	}
}
