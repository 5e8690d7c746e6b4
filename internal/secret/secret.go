// Package secret is the type of passwords and tokens: a text that prints as ***.
//
// It stands beside the path, imports nothing of the project, and is for whatever
// holds a secret on its way from the settings to the library that needs it.
package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// Hidden is what a secret prints as.
const Hidden = "***"

// Text is a secret. The zero value is no secret. It prints as [Hidden], or as
// nothing where it is empty, in every verb of package fmt, in JSON and in logs;
// only [Text.Reveal] tells it. Compare with [Text.Equal].
type Text struct {
	// Behind a pointer, because %p asks no method and prints what it holds.
	text *string
}

// New makes a secret of a text.
func New(text string) Text {
	if text == "" {
		return Text{}
	}
	return Text{&text}
}

// Reveal is the text itself, for the one who needs it. What it returns must not
// be printed or wrapped in an error.
func (t Text) Reveal() string {
	if t.text == nil {
		return ""
	}
	return *t.text
}

// IsZero reports whether there is no secret.
func (t Text) IsZero() bool { return t.text == nil }

// String hides the text.
func (t Text) String() string {
	if t.text == nil {
		return ""
	}
	return Hidden
}

// Format hides the text from every verb and flag, %#v and %x among them.
func (t Text) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, t.String()) }

// LogValue hides the text from slog.
func (t Text) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText hides the text from JSON, YAML and whatever else asks for text.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText takes a text for the secret that it is. What [Text.MarshalText]
// has written is no secret any more, and does not come back.
func (t *Text) UnmarshalText(text []byte) error {
	*t = New(string(text))
	return nil
}

// Equal reports whether two secrets are the same.
func (t Text) Equal(other Text) bool { return t.Reveal() == other.Reveal() }
