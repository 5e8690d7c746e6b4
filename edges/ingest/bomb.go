package ingest

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// takeBomb takes a batch of the log that would unpack to more than the client
// allows. Nobody can look at its records, so one dead letter stands for all of
// them; it waits its turn in hand, in place of the first.
//
// The client does not fetch the partition any more and is told to go on behind
// the batch. That is safe here and nowhere else: between a poll and the moment
// when rebalances are allowed the partition cannot change hands, and what the
// client had fetched it fetches again.
func (p *partition) takeBomb(err error) {
	bomb, ok := errors.AsType[*kgo.ErrDecompressTooLarge](err)
	if !ok {
		return
	}
	r := &kgo.Record{Topic: bomb.Topic, Partition: bomb.Partition, Offset: max(bomb.Offset, p.read), LeaderEpoch: bomb.Epoch}
	if p.bombs == nil {
		p.bombs = map[int64]bombError{}
	}
	p.bombs[r.Offset] = bombError{r.Offset, bomb.NextOffset - 1}
	p.inHand = append(p.inHand, r)
	p.read = bomb.NextOffset
	p.cl.SetOffsets(map[string]map[int32]kgo.EpochOffset{
		bomb.Topic: {bomb.Partition: {Epoch: bomb.Epoch, Offset: bomb.NextOffset}},
	})
}

// bombError is why the records of a bomb are dead.
type bombError struct{ first, last int64 }

func (e bombError) Error() string {
	return fmt.Sprintf("record: offsets %d to %d are one batch that decompresses to too much, none of them can be read", e.first, e.last)
}
