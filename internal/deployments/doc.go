// Package deployments holds the configuration of nats-server in the folder
// deployments against the server itself. Command lines, variables and ports are
// held against the binary by the tests of cmd/pelton.
//
// It stands beside the path: nothing imports it, it is all tests.
package deployments
