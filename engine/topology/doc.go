// Package topology is the streams, consumers and buckets of Pelton as data:
// what must stand in a broker before a task can travel, and the three things
// that are done about it: plan, apply, verify.
//
// It sits beside the path. Whoever sets a broker up calls [Apply]; roles call
// [Verify] on the part they use and start only if it holds. Nothing here is
// ever deleted, and neither publishing nor fetching comes through here.
//
// # Contract and settings
//
// A field of a stream or a consumer belongs to one of three groups:
//
//   - Contract: what the guarantees rest on. Retention, discard policy, flags,
//     subjects, filters, acknowledgement, the absence of limits on what waits
//     for its time. [Verify] refuses a broker in which one differs.
//   - Settings: limits, ages, AckWait, MaxAckPending, replicas. [Plan] shows
//     them and [Apply] mends them, but Verify lets them pass: an operator who
//     changed a limit by hand in the night must not find that no worker starts
//     any more.
//   - The rest is the operator's: description, placement, compression,
//     metadata, sampling, pauses. It is never compared, and kept by updates.
//
// # Order
//
// Streams are made from the end of a task's life to its beginning: dead
// letters, records, later stream, and the task stream last; each consumer
// follows its stream at once. A set-up that is cut off therefore never leaves a
// place that takes tasks while the places they go on to are missing: without a
// task stream nobody's publish is acknowledged. What is left of the gap, a task
// stream whose consumer is not there yet, loses nothing, because a work queue
// keeps what nobody has acknowledged and the consumer, whenever it is made,
// reads from the first message.
package topology
