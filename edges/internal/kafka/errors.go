package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	// ErrUnreachable means that no broker answered.
	ErrUnreachable = errors.New("unreachable")
	// ErrRefused means that a broker answered, and refused the credentials or
	// what they asked for.
	ErrRefused = errors.New("refused")
	// ErrNoTopic means that the cluster has no such topic.
	ErrNoTopic = errors.New("does not exist")
	// ErrTopicDiffers means that a topic exists in another shape than needed.
	ErrTopicDiffers = errors.New("is not as needed")
)

// Class says what an error of Kafka means for an edge.
type Class int

// The classes. Retry and Unreachable pass by themselves; with all others the
// same call would fail again.
const (
	// OK is the class of nil.
	OK Class = iota
	// Unreachable: no broker, or the connection was lost. The outcome of a
	// request in flight is unknown.
	Unreachable
	// Retry: a broker answered that it cannot do so now, or nobody answered in
	// time. The outcome of a timed out request is unknown.
	Retry
	// NoTopic: the topic or partition does not exist, or was made anew.
	NoTopic
	// Auth: credentials, rights or certificates were refused.
	Auth
	// Fenced: another member, instance or transaction has taken over. Close the
	// client and begin again from the ledger.
	Fenced
	// TooLarge: a record, batch or decompressed batch beyond a limit.
	TooLarge
	// Stopped: the client was closed, or the caller's context cancelled.
	Stopped
	// Fatal is every other error.
	Fatal
)

// String returns the class in one lower-case word.
func (c Class) String() string {
	switch c {
	case OK:
		return "ok"
	case Unreachable:
		return "unreachable"
	case Retry:
		return "retry"
	case NoTopic:
		return "no_topic"
	case Auth:
		return "auth"
	case Fenced:
		return "fenced"
	case TooLarge:
		return "too_large"
	case Stopped:
		return "stopped"
	case Fatal:
		return "fatal"
	}
	return fmt.Sprintf("Class(%d)", int(c))
}

// classes holds the errors that are known by value. It comes before the broad
// rules of Classify: UNKNOWN_TOPIC_OR_PARTITION, say, counts as retriable for
// franz-go.
var classes = []struct {
	class Class
	errs  []error
}{
	{Stopped, []error{context.Canceled, kgo.ErrClientClosed, kgo.ErrAborting}},
	{NoTopic, []error{
		ErrNoTopic, kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.InconsistentTopicID,
	}},
	{Auth, []error{
		ErrRefused,
		kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState,
		kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed,
		kerr.TransactionalIDAuthorizationFailed, kerr.DelegationTokenAuthorizationFailed,
		kerr.DelegationTokenExpired,
	}},
	{Fenced, []error{
		kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.OperationNotAttempted, kerr.InvalidTxnState,
		kerr.InvalidProducerIDMapping, kerr.UnknownProducerID, kerr.OutOfOrderSequenceNumber,
		kerr.TransactionAbortable, kerr.TransactionCoordinatorFenced,
		kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.FencedInstanceID, kerr.FencedMemberEpoch,
		kerr.StaleMemberEpoch,
	}},
	{TooLarge, []error{kerr.MessageTooLarge, kerr.RecordListTooLarge, kgo.ErrMaxDecompress}},
	{Retry, []error{
		context.DeadlineExceeded, kgo.ErrRecordTimeout, kgo.ErrRecordRetries, kgo.ErrMaxBuffered,
		kerr.RebalanceInProgress, kerr.ConcurrentTransactions,
	}},
	{Unreachable, []error{ErrUnreachable, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, os.ErrDeadlineExceeded}},
}

// Classify says what err means. It looks through wrapped and joined errors;
// where several are joined, encryption comes first and then the order of the
// table.
func Classify(err error) Class {
	if err == nil {
		return OK
	}
	if isTLS(err) {
		return Auth
	}
	// A dial that ran out of time is also a context.DeadlineExceeded.
	if op, ok := errors.AsType[*net.OpError](err); ok && !errors.Is(op, context.Canceled) {
		return Unreachable
	}
	for _, known := range classes {
		for _, target := range known.errs {
			if errors.Is(err, target) {
				return known.class
			}
		}
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return Unreachable
	}
	if kgo.IsRetryableBrokerErr(err) {
		return Unreachable
	}
	if kerr.IsRetriable(err) {
		return Retry
	}
	return Fatal
}

// isTLS tells a refused certificate, or a broker that does not speak TLS, from
// a broken connection: all of them arrive as errors of the connection.
func isTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" // how crypto/tls marks an alert of the peer
}

// explain names the cluster in an error of the connection, and adds the
// sentinel that fits. Other errors are only wrapped.
func explain(cl *kgo.Client, err error) error {
	switch Classify(err) {
	case Unreachable, Retry:
		return fmt.Errorf("kafka %s: %w: %w", seeds(cl), ErrUnreachable, err)
	case Auth:
		return fmt.Errorf("kafka %s: %w: %w", seeds(cl), ErrRefused, err)
	default:
		return fmt.Errorf("kafka %s: %w", seeds(cl), err)
	}
}

func seeds(cl *kgo.Client) string {
	brokers, _ := cl.OptValue(kgo.SeedBrokers).([]string)
	return strings.Join(brokers, ",")
}
