// Package wire is Pelton's contract as code: what stands in the subjects,
// headers and records that travel between clients, workers and edges.
//
// It is the bottom of the path. Every other package builds its names and reads
// its messages here, so that the contract has one place. The package does no
// I/O, starts nothing, and imports the standard library alone; everything in it
// is safe for concurrent use.
//
// # Shape of a task
//
// The body of a message is the caller's own JSON. What Pelton needs to know
// stands in the subject and in optional headers; there is no envelope:
//
//	pelton.task.<queue>.<task>[.<id>]
//
// Parsers take names from strangers. They accept exactly what the builders can
// produce and answer anything else with a [*NameError] that names the field,
// the value and the rule.
package wire
