package permissions

import (
	"fmt"
	"io"
	"strings"
)

const head = `# Users of the broker, one for each role, each with just the rights it needs.
# nats-server.conf includes this file.
#
# Written by: pelton setup permissions%s
# The same command with --queues and --routes writes it for others. What the
# rights stop, and what they do not, is told in docs/security.md.
#
# The passwords come from the environment of nats-server, which does not start
# without them. Each begins with a letter, or is a bcrypt hash (nats server
# passwd). In place of user and password, nkey: U… takes a key pair.
#
# A user hears answers only below its own inbox, so its clients need the prefix
# that stands there: _INBOX_worker (--inbox-prefix of the nats command).
`

// Write writes the roles as a part of the configuration of nats-server. The
// passwords are variables of its environment. args are those of the command
// that repeats it, and are told in the file.
func Write(w io.Writer, roles []Role, args string) error {
	var b strings.Builder
	fmt.Fprintf(&b, head, args)
	b.WriteString("\nauthorization {\n  users: [\n")
	for _, r := range roles {
		writeRole(&b, r)
	}
	b.WriteString("  ]\n}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func writeRole(b *strings.Builder, r Role) {
	fmt.Fprintf(b, "    # %s\n    {\n      user: %s\n      password: %s\n      permissions: {\n", r.Does, r.Name, Variable(r.Name))
	writeRights(b, "publish", r.Publish)
	writeRights(b, "subscribe", r.Subscribe)
	if r.Answers > 0 {
		fmt.Fprintf(b, "        allow_responses: { max: 1, expires: %q }  # answers what it is asked\n", r.Answers)
	}
	b.WriteString("      }\n    }\n")
}

func writeRights(b *strings.Builder, verb string, rights []Right) {
	fmt.Fprintf(b, "        %s: { allow: [\n", verb)
	for _, right := range rights {
		fmt.Fprintf(b, "          %q  # %s\n", right.Subject, right.For)
	}
	b.WriteString("        ] }\n")
}

// Variable is where a user's password comes from, as the configuration names
// it: $NATS_WORKER_PASSWORD.
func Variable(user string) string { return "$NATS_" + strings.ToUpper(user) + "_PASSWORD" }
