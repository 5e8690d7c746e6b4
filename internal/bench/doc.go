// Package bench measures Pelton against a bare loop on the client library of the
// broker, and says both.
//
// It stands beside the path: the broker is a process of its own, made for the
// measurement with its files in a temporary folder. In each round the raw loop
// and Pelton do the same work on streams of the same settings, one after the
// other, and the order changes with every round. What is reported is the median
// of the ratios of the rounds: figures of one machine do not hold on another,
// ratios mostly do.
package bench
