package main

import (
	"os"
	"strings"
	"testing"
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
	for _, args := range [][]string{{"--routes", "*"}, {"--queues", "Mail"}, {"--namespace", "a.b"}} {
		got := runIn(t.Context(), nil, nil, append([]string{"setup", "permissions"}, args...)...)
		if got.code != exitUsage || got.stdout != "" || !strings.Contains(got.stderr, args[1]) {
			t.Errorf("%v: exit code %d: %s", args, got.code, got.stderr)
		}
	}
}
