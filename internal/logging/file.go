package logging

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"
)

// logFile is a file that grows by whole lines, and gives way to a new one once
// it is full: app.log becomes app.log.1, app.log.1 becomes app.log.2. It must
// not be shared with another process that renames it, too.
type logFile struct {
	path     string
	maxBytes int64 // 0 for no limit
	backups  int   // 0 for no limit, either: there would be nowhere to go
	complain func(error)

	mu      sync.Mutex
	f       *os.File
	size    int64
	failing bool // the last line had trouble, and it was told
}

// openFile appends to a file, or begins it anew.
func openFile(path string, anew bool, maxBytes int64, backups int, complain func(error)) (*logFile, error) {
	l := &logFile{path: path, maxBytes: maxBytes, backups: backups, complain: complain}
	if maxBytes > 0 {
		anew = false // as in Python: what is to be kept is not thrown away at the start
	}
	if err := l.open(anew); err != nil {
		return nil, err
	}
	return l, nil
}

// open takes the place of what is open, which stays where that cannot be done.
func (l *logFile) open(anew bool) error {
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if anew {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(l.path, flags, 0o640) //nolint:gosec // the group may read, as with other logs
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if l.f != nil {
		_ = l.f.Close()
	}
	l.f, l.size = f, info.Size()
	return nil
}

// Write writes one line. Where the file cannot be renamed the line goes into
// the full one: a line too many is better than one too few.
func (l *logFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var trouble error
	if l.maxBytes > 0 && l.backups > 0 && l.size > 0 && l.size+int64(len(line)) >= l.maxBytes {
		trouble = l.rotate()
	}
	n, err := l.f.Write(line)
	l.size += int64(n)
	trouble = errors.Join(trouble, err)
	// Once, not at every line; and not after Close, which is nobody's fault.
	if trouble != nil && !l.failing && !errors.Is(trouble, os.ErrClosed) {
		l.complain(trouble)
	}
	l.failing = trouble != nil
	return n, err
}

// rotate renames from the oldest on, and stops where that fails, so that none
// is lost under another.
func (l *logFile) rotate() error {
	for i := l.backups - 1; i >= 0; i-- {
		from, to := l.path, l.path+"."+strconv.Itoa(i+1)
		if i > 0 {
			from += "." + strconv.Itoa(i)
		}
		if err := os.Rename(from, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return l.open(false)
}

// reopen goes on in the file that has the name now.
func (l *logFile) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open(false)
}

func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("log file %s: %w", l.path, err)
	}
	return nil
}

// lines lets several handlers write to one stream, a line at a time.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(line)
}
