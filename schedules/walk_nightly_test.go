//go:build nightly

package schedules_test

// walks is how many random entries TestWalks walks through time with.
const walks = 1_000_000
