package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"pelton/engine/enginetest"
)

// ServeBroker is the broker's own process: it prints its address on out, answers
// each line of in with the processor time it has used, in nanoseconds, and ends
// with in.
func ServeBroker(in io.Reader, out io.Writer, folder string, syncAlways bool) error {
	s, err := enginetest.NewServer(enginetest.ServerConfig{StoreDir: folder, SyncAlways: syncAlways})
	if err != nil {
		return err
	}
	defer s.Stop()
	if _, err := fmt.Fprintln(out, s.URL()); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if _, err := fmt.Fprintln(out, int64(processorTime())); err != nil {
			return err
		}
	}
	return nil
}

// broker is a broker's process, seen from outside.
type broker struct {
	url    string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	folder string
}

// startBroker starts the process. The command is given the folder and whether
// to force every write to disk.
func startBroker(ctx context.Context, command func(ctx context.Context, folder string, syncAlways bool) *exec.Cmd, syncAlways bool) (*broker, error) {
	folder, err := os.MkdirTemp("", "pelton-bench-")
	if err != nil {
		return nil, err
	}
	b := &broker{folder: folder, cmd: command(ctx, folder, syncAlways)}
	if err := b.start(); err != nil {
		_ = os.RemoveAll(folder)
		return nil, fmt.Errorf("broker process: %w", err)
	}
	line, err := b.out.ReadString('\n')
	if err != nil {
		b.stop()
		return nil, fmt.Errorf("broker process: no address: %w", err)
	}
	b.url = strings.TrimSpace(line)
	return b, nil
}

func (b *broker) start() error {
	in, err := b.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	b.in, b.out = in, bufio.NewReader(out)
	return b.cmd.Start()
}

// used is the processor time of the broker's process so far.
func (b *broker) used() (time.Duration, error) {
	if _, err := io.WriteString(b.in, "\n"); err != nil {
		return 0, fmt.Errorf("broker process: %w", err)
	}
	line, err := b.out.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("broker process: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	return time.Duration(n), err
}

func (b *broker) stop() {
	_ = b.in.Close()
	_ = b.cmd.Wait()
	_ = os.RemoveAll(b.folder)
}
