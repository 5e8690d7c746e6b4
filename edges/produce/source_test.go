package produce

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// take returns the first n messages of a source, and its error.
func take(ctx context.Context, source Source, n int) ([]string, error) {
	var got []string
	for message, err := range source(ctx) {
		if err != nil {
			return got, err
		}
		if got = append(got, message); len(got) == n {
			break
		}
	}
	return got, nil
}

func TestSources(t *testing.T) {
	for _, tt := range []struct {
		name   string
		source Source
		want   []string
	}{
		{"default", Default(""), []string{"message 1", "message 2", "message 3", "message 4", "message 5"}},
		{"default with content", Default("hi"), []string{"hi", "hi", "hi", "hi", "hi"}},
		{"literal", Literal("a", "", "a"), []string{"a", "", "a"}},
		{"literal of none", Literal(), nil},
		{"cycle of one", Cycle("a"), []string{"a", "a", "a", "a", "a"}},
		{"cycle of two", Cycle("a", "b"), []string{"a", "b", "a", "b", "a"}},
		{"cycle of none", Cycle(), nil},
		{"lines", Lines(strings.NewReader("a\n\nb\r\n  \n c \n{\"d\":1}")), []string{"a", "b", " c ", `{"d":1}`}},
		{"no lines", Lines(strings.NewReader("")), nil},
		{"one byte at a time", Lines(iotest.OneByteReader(strings.NewReader("ab\ncd"))), []string{"ab", "cd"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 {
				got, err := take(t.Context(), tt.source, 5)
				if err != nil || !slices.Equal(got, tt.want) {
					t.Errorf("got %q, %v, want %q", got, err, tt.want)
				}
				if strings.Contains(tt.name, "line") || strings.Contains(tt.name, "byte") {
					break // a reader is read once
				}
			}
		})
	}
}

func TestLinesLength(t *testing.T) {
	full := strings.Repeat("x", MaxLine)
	for _, end := range []string{"", "\n", "\r\n"} {
		got, err := take(t.Context(), Lines(strings.NewReader("a\n"+full+end)), 3)
		if err != nil || len(got) != 2 || got[1] != full {
			t.Errorf("the longest line with end %q: %d lines, %v", end, len(got), err)
		}
		for _, long := range []string{full + "x", full + full} {
			got, err := take(t.Context(), Lines(strings.NewReader("a\n\n"+long+end)), 3)
			want := "line 3: must have at most 1048576 bytes"
			if err == nil || err.Error() != want || !slices.Equal(got, []string{"a"}) {
				t.Errorf("%d bytes with end %q: %d lines, %v", len(long), end, len(got), err)
			}
		}
	}
}

func TestLinesReadError(t *testing.T) {
	broken := errors.New("broken")
	r := io.MultiReader(strings.NewReader("a\nb\n"), iotest.ErrReader(broken))
	got, err := take(t.Context(), Lines(r), 3)
	if !errors.Is(err, broken) || err.Error() != "line 3: broken" || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

// A line must not wait for the next one.
func TestLinesStream(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	lines := make(chan string)
	go func() {
		defer close(lines)
		for message, err := range Lines(r)(t.Context()) {
			if err != nil {
				t.Error(err)
			}
			lines <- message
		}
	}()
	for _, want := range []string{"a", "b"} {
		if _, err := io.WriteString(w, want+"\n"); err != nil {
			t.Fatal(err)
		}
		if got := <-lines; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, open := <-lines; open {
		t.Error("goes on after the end")
	}
}

func TestLinesStopWhileReading(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close() // frees the reader
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := take(ctx, Lines(r), 1)
		done <- err
	}()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
