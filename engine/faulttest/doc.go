// Package faulttest judges what became of tasks while workers, connections and
// brokers died under them.
//
// It stands beside the path. A test of faults writes a history: what was sent and
// how that was answered, each run of a handler, each fault, and at last every
// revision of the tasks' records and what is left in the streams. [Judge] holds
// such a history against what Pelton promises; it knows nothing of the engine,
// has no clock and does nothing but compute, so that a history that was kept can
// be judged again, by a later version too.
package faulttest
