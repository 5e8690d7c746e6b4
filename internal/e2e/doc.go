// Package e2e holds the tests of the whole path as it is run: every role a
// process of its own, killed and started again, between two real servers.
//
// It stands beside the path. There is no code in it, and its tests are behind
// the build tag e2e, because they take minutes.
package e2e
