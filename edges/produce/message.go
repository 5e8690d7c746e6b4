package produce

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"time"
	"unicode/utf8"
)

// record is what a text is wrapped in.
type record struct {
	UUID      string `json:"uuid"`
	Content   string `json:"content"`
	Timestamp string `json:"timestamp"`
}

// timestampFormat is RFC 3339 with a fraction of fixed width.
const timestampFormat = "2006-01-02T15:04:05.000000Z"

// encode turns a message into the value of a Kafka record.
func encode(message string, now time.Time) ([]byte, error) {
	if isDocument(message) {
		return []byte(message), nil
	}
	// JSON has no other text, and the encoder would replace what is not valid.
	if !utf8.ValidString(message) {
		return nil, errors.New("must be valid UTF-8")
	}
	var buf bytes.Buffer
	encoder := json.NewEncoder(&buf)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(record{
		UUID:      newUUID(),
		Content:   message,
		Timestamp: now.UTC().Format(timestampFormat),
	})
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), err
}

// isDocument reports whether message is a JSON object or array. A bare JSON
// string or number is a text like any other.
func isDocument(message string) bool {
	trimmed := strings.TrimLeft(message, " \t\r\n")
	if trimmed == "" || trimmed[0] != '{' && trimmed[0] != '[' {
		return false
	}
	return json.Valid([]byte(message))
}

// newUUID returns a random UUID, version 4 of RFC 9562.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])  // never fails
	b[6] = b[6]&0x0f | 0x40 // version 4
	b[8] = b[8]&0x3f | 0x80 // variant 10
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
