package secret_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pelton/internal/secret"
)

func TestNothingTells(t *testing.T) {
	t.Parallel()
	const canary = "canary-7f3a"
	s := secret.New(canary)
	type holder struct {
		Open   string
		Secret secret.Text
		Held   *secret.Text
	}
	h := holder{"open", s, &s}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10s", "%T", "%p"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", h)
		fmt.Fprintf(&out, verb+"\n", []any{s, map[string]secret.Text{"a": s}, errors.Join(fmt.Errorf("of %v", s))})
	}
	fmt.Fprintln(&out, s, h)
	for _, v := range []any{s, h, map[string]any{"a": s}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	for _, handler := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(handler).Info("told", "secret", s, "held", &s, "holder", h)
	}
	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprintf("%v", []byte(canary))} {
		if strings.Contains(out.String(), form) {
			t.Errorf("%q is told in:\n%s", form, out.String())
		}
	}
	if !strings.Contains(out.String(), secret.Hidden) {
		t.Error("nothing was hidden")
	}
	if s.Reveal() != canary || s.IsZero() || !s.Equal(secret.New(canary)) {
		t.Error("the secret is not what it was made of")
	}
	var read secret.Text
	if err := json.Unmarshal([]byte(`"`+canary+`"`), &read); err != nil || !read.Equal(s) {
		t.Errorf("read from JSON it is another: %v", err)
	}
	if got := fmt.Sprintf("%v|%s", secret.Text{}, secret.Text{}); got != "|" {
		t.Errorf("no secret prints as %q", got)
	}
}
