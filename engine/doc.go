// Package engine is Pelton's library: it publishes tasks to a queue and runs
// them.
//
// On the path it is everything between the edges: a task is published to its
// queue's work-queue stream by one of three ways, waited for (publish.go), as a
// future (publish_async.go) or with many others (publish_many.go), fetched by a
// worker with a free slot (fetch.go), kept alive while it is held (lease.go), run by its handler
// (execute.go), and settled (settle.go): its record is written by
// compare-and-set, then the message is acknowledged. A failed attempt is parked
// in the queue's later stream (retry.go) and comes back by its due lane, unless
// the next one is due so soon that the worker keeps it (keep.go); a task out of
// attempts becomes a dead letter (dead.go). Whoever waits for a result is told
// by the broker (result.go).
//
// What is promised: an acknowledged publish reaches a terminal state at least
// once, and the recorded outcome is written exactly once. A handler may run
// more than once, after a crash for example; the id of the task with its run is
// the key by which a handler can tell.
//
// A [Client] and a [Worker] are safe for concurrent use.
package engine
