package ingest

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// generationNote begins what is committed beside an offset: the generation of
// the partition's ids, which must be known even when the ledger is gone.
const generationNote = "g="

// commit tells the group how far the ledgers are. Nothing rests on it but the
// lag that tools show, and the tripwire.
func (s *session) commit(ctx context.Context) {
	offsets := map[int32]kgo.EpochOffset{}
	partitions := s.partitions()
	for _, p := range partitions {
		if p.next > p.committed {
			offsets[p.number] = kgo.EpochOffset{Epoch: p.epoch, Offset: p.next}
		}
	}
	if len(offsets) == 0 || s.tell(ctx, offsets) != nil {
		return
	}
	for _, p := range partitions {
		if at, ok := offsets[p.number]; ok {
			p.committed = at.Offset
		}
	}
}

// tell commits offsets. Without an error the group knows this edge, at this
// moment, as the owner of their partitions.
func (s *session) tell(ctx context.Context, offsets map[int32]kgo.EpochOffset) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	var failure error
	s.cl.CommitOffsetsSync(kgo.PreCommitFnContext(ctx, s.note), map[string]map[int32]kgo.EpochOffset{s.cfg.Route.Topic: offsets},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			failure = err
			if err == nil {
				failure = refusal(resp)
			}
		})
	return failure
}

func refusal(resp *kmsg.OffsetCommitResponse) error {
	for _, topic := range resp.Topics {
		for _, p := range topic.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}

// note puts the generations into a commit.
func (s *session) note(req *kmsg.OffsetCommitRequest) error {
	for _, topic := range req.Topics {
		for i := range topic.Partitions {
			if p := s.partition(topic.Partitions[i].Partition); p != nil {
				topic.Partitions[i].Metadata = new(generationNote + strconv.Itoa(p.generation))
			}
		}
	}
	return nil
}

// readNotes keeps the generations that the group knows for adjust, which comes
// next.
func (s *session) readNotes(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	s.noted = map[int32]int{}
	for _, group := range resp.Groups {
		for _, topic := range group.Topics {
			for _, p := range topic.Partitions {
				if p.Metadata == nil {
					continue
				}
				number, ok := strings.CutPrefix(*p.Metadata, generationNote)
				if n, err := strconv.Atoi(number); ok && err == nil {
					s.noted[p.Partition] = n
				}
			}
		}
	}
	return nil
}

// prove reports whether the group knows this edge as the owner of the
// partition. One whose batch was refused must not go on without: it may have
// lost the partition and be the last to learn of it.
func (p *partition) prove(ctx context.Context) bool {
	err := p.tell(ctx, map[int32]kgo.EpochOffset{p.number: {Epoch: p.epoch, Offset: p.next}})
	if err == nil {
		p.committed = p.next
	}
	p.doubtful = err != nil
	return err == nil
}

// errNotOwner is for the log.
var errNotOwner = errors.New("the group does not confirm that the partition belongs here")
