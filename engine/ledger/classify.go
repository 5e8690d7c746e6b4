package ledger

import (
	"errors"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// verdict is what one try of a batch has come to.
type verdict int

const (
	stored   verdict = iota // the batch is in the stream
	unknown                 // it may be
	fenced                  // not stored: there is another entry
	full                    // not stored: no room
	again                   // not stored, and the next try may be
	rejected                // not stored, and no further try will be
)

// Error codes of the server (errors.json) that decide a verdict. All others of
// class 4xx reject a batch, those of class 5xx call for another try.
const (
	codeWrongLast       = 10071 // wrong last sequence: N
	codeWrongLastBusy   = 10164 // another message of this subject is on its way
	codeStoreFailed     = 10077 // maximum messages or bytes exceeded, and other failures
	codeAccountLimit    = 10002
	codeNoResources     = 10023
	codeNoMemory        = 10028
	codeNoStorage       = 10047
	codeBatchIncomplete = 10176
	codeDuplicate       = 10201 // a message id that the stream knows
	codeDuplicateBusy   = 10158
	codeBatchesOpen     = 10210 // too many at once
)

// classify is the one place that reads the error of a try.
func classify(err error) verdict {
	if err == nil {
		return stored
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return classifyAPI(api)
	}
	switch {
	case errors.Is(err, errNoAnswer):
		return unknown
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining),
		errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrBadHeaderMsg),
		errors.Is(err, nats.ErrHeadersNotSupported), errors.Is(err, ErrTooLarge), errors.Is(err, errNotAtomic):
		return rejected
	}
	return again
}

func classifyAPI(api *jetstream.APIError) verdict {
	switch api.ErrorCode {
	case codeWrongLast:
		return fenced
	case codeAccountLimit, codeNoResources, codeNoMemory, codeNoStorage:
		return full
	case codeStoreFailed:
		if strings.HasPrefix(api.Description, "maximum ") {
			return full
		}
		return again
	case codeWrongLastBusy, codeBatchIncomplete, codeBatchesOpen, codeDuplicate, codeDuplicateBusy:
		return again
	}
	if api.Code/100 == 4 {
		return rejected
	}
	return again
}

// incomplete reports whether a message of the batch was refused and which one
// is not known.
func incomplete(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == codeBatchIncomplete
}

// Newest is the sequence that a refused publish names, `wrong last sequence: 7`:
// that of the newest message of its subject, 0 where there is none. It is false
// for any other error.
func Newest(err error) (uint64, bool) {
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok || api.ErrorCode != codeWrongLast {
		return 0, false
	}
	number, ok := strings.CutPrefix(api.Description, "wrong last sequence: ")
	n, err := strconv.ParseUint(number, 10, 64)
	return n, ok && err == nil
}
