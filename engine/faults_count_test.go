//go:build e2e && !nightly

package engine

// How many faults the tests of faults do, with one broker and with three.
const (
	faultsOfOne   = 420
	faultsOfThree = 110
)
