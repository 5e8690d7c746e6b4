//go:build e2e && !nightly

package engine

// How many faults the tests of faults do, with one broker and with three.
const (
	faultsOfOne   = 360
	faultsOfThree = 100
)
