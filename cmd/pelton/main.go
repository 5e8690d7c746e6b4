// Pelton is the task engine as one binary: its roles, and the clients that talk
// to them.
//
// It stands around the path: each command reads its settings, builds the parts
// of the path that it is about, and runs them. What they do is in their
// packages.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, env: os.Environ(), dir: ".", hangups: hangups}
	os.Exit(untilSecond(signals, func(ctx context.Context) int { return a.run(ctx, os.Args[1:]) }))
}

// untilSecond runs a command. The first signal ends its context, so that it may
// come to a clean end; the second does not wait for that.
func untilSecond(signals <-chan os.Signal, run func(context.Context) int) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	code := make(chan int, 1)
	go func() { code <- run(ctx) }()
	for told := false; ; told = true {
		select {
		case c := <-code:
			return c
		case <-signals:
			if told {
				return exitInterrupted
			}
			cancel()
		}
	}
}

// Run is a command from its arguments, without the program's name, to its exit
// code. Once ctx is done a role drains and ends with 0, a client is interrupted.
// It has no working folder: no file is read but one that is named.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, env []string) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, env: env}
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(append([]string{}, args...)) // cobra takes nil for the program's own
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !a.started {
		err = &usageError{err: err, help: cmd.CommandPath() + " --help"}
	}
	if err != nil {
		a.say("%v", err)
	}
	return exitCode(err)
}
