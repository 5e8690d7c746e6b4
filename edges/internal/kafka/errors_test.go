package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestClassify(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, tt := range []struct {
		err  error
		want Class
	}{
		{nil, OK},

		{dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), Unreachable},
		{dial(context.DeadlineExceeded), Unreachable},
		{&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, Unreachable},
		{&net.DNSError{Err: "no such host", Name: "kafka", IsNotFound: true}, Unreachable},
		{io.EOF, Unreachable},
		{io.ErrUnexpectedEOF, Unreachable},
		{net.ErrClosed, Unreachable},
		{os.ErrDeadlineExceeded, Unreachable},
		{&kgo.ErrGroupSession{Err: dial(syscall.ECONNREFUSED)}, Unreachable},
		{fmt.Errorf("%w, last err: %w", kgo.ErrRecordTimeout, dial(syscall.ECONNREFUSED)), Unreachable},

		{kerr.NotLeaderForPartition, Retry},
		{kerr.NotEnoughReplicas, Retry},
		{kerr.CoordinatorNotAvailable, Retry},
		{kerr.RebalanceInProgress, Retry},
		{kerr.ConcurrentTransactions, Retry},
		{kgo.ErrRecordTimeout, Retry},
		{kgo.ErrRecordRetries, Retry},
		{context.DeadlineExceeded, Retry},

		{kerr.UnknownTopicOrPartition, NoTopic},
		{kerr.UnknownTopicID, NoTopic},
		{fmt.Errorf("produce: %w", ErrNoTopic), NoTopic},

		{kerr.SaslAuthenticationFailed, Auth},
		{kerr.TopicAuthorizationFailed, Auth},
		{kerr.ClusterAuthorizationFailed, Auth},
		{dial(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), Auth},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, Auth},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(42)}, Auth},

		{kerr.InvalidProducerEpoch, Fenced},
		{kerr.ProducerFenced, Fenced},
		{kerr.OperationNotAttempted, Fenced},
		{kerr.InvalidTxnState, Fenced},
		{kerr.FencedInstanceID, Fenced},
		{kerr.UnknownMemberID, Fenced},

		{kerr.MessageTooLarge, TooLarge},
		{fmt.Errorf("%w (uncompressed_bytes=2)", kerr.MessageTooLarge), TooLarge},
		{&kgo.ErrDecompressTooLarge{Topic: "t"}, TooLarge},

		{context.Canceled, Stopped},
		{dial(context.Canceled), Stopped},
		{kgo.ErrClientClosed, Stopped},

		{kerr.UnsupportedVersion, Fatal},
		{kerr.InvalidTopicException, Fatal},
		{kerr.UnknownServerError, Fatal},
		{errors.New("anything"), Fatal},
	} {
		if got := Classify(tt.err); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.err, got, tt.want)
		}
		if tt.err == nil {
			continue
		}
		if got := Classify(fmt.Errorf("wrapped: %w", tt.err)); got != tt.want {
			t.Errorf("wrapped %v: %s, want %s", tt.err, got, tt.want)
		}
	}
}

func TestClassString(t *testing.T) {
	seen := map[string]bool{}
	for class := OK; class <= Fatal; class++ {
		if seen[class.String()] {
			t.Errorf("%s twice", class)
		}
		seen[class.String()] = true
	}
	if got := (Fatal + 1).String(); got != "Class(9)" {
		t.Errorf("an unknown class is %s", got)
	}
}
