// Package ledger writes tasks exactly once: a batch of tasks and the position
// of their writer in its source, stored together or not at all.
//
// On the path it stands where tasks come from a source with positions of its
// own: a Kafka partition, a timetable. The position is a message, the entry, on
// a subject that only this writer uses, in the very stream that takes the
// tasks. One atomic batch (ADR-50, nats-server 2.12) holds the tasks and, last,
// the entry, which expects the sequence of the entry before it: the fence. Of
// two writers that know the same fence one is therefore refused whole, and
// whoever knows the newest entry knows which tasks are stored.
//
// # Outcomes
//
// An answer that does not come is an unknown outcome and not a failure. Write
// then tries the same content again under the same fence and a new batch id. If
// that is stored, the earlier try was not, nor can it be any more, because its
// fence is used up. If it is refused, the refusal names the sequence of the
// newest entry, and that entry tells by instance and checksum whether the
// earlier try had written it.
//
// # Reading
//
// Entries are read by direct get, which on several replicas may lag. That is
// harmless: a stale fence is refused, the refusal names the true sequence, and
// [Ledger.ReadAt] reads until it is seen. So a writer needs the right to read
// its own ledger and no other message of the stream.
package ledger
