// Command check judges the history of a test of faults again:
//
//	go run ./internal/faults/check FILE
//
// It stands beside the path, see package faulttest. It exits with 0 where the
// history breaks no rule, with 1 where it does, and with 2 where it cannot be
// read.
package main

import (
	"fmt"
	"io"
	"os"

	"pelton/engine/faulttest"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) //nolint:forbidigo // a command of its own
}

func run(args []string, out, errOut io.Writer) int {
	if len(args) != 1 {
		_, _ = fmt.Fprintln(errOut, "usage: check FILE")
		return 2
	}
	verdict, err := judge(args[0])
	if err != nil {
		_, _ = fmt.Fprintln(errOut, err)
		return 2
	}
	_, _ = fmt.Fprintln(out, verdict)
	if len(verdict.Violations) > 0 {
		return 1
	}
	return 0
}

func judge(path string) (faulttest.Verdict, error) {
	file, err := os.Open(path)
	if err != nil {
		return faulttest.Verdict{}, err
	}
	defer func() { _ = file.Close() }()
	events, err := faulttest.Read(file)
	if err != nil {
		return faulttest.Verdict{}, fmt.Errorf("%s: %w", path, err)
	}
	return faulttest.Judge(events), nil
}
