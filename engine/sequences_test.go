//go:build !nightly

package engine

// sequences is how many random lives TestRandomLives plays.
const sequences = 100
